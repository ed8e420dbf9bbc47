"""The command line. Heavy imports happen inside the commands, so `rayface --help` is quick."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rayface import __version__
from rayface.data.cli import app as data_app
from rayface.data.cli import tell
from rayface.errors import RayfaceError
from rayface.labelling.cli import label as data_label
from rayface.swapping.cli import swaps as data_swaps

app = typer.Typer(
    name="rayface",
    help="Train, compress, evaluate and serve a family of face networks on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The model store: list, show, promote, import, export.", no_args_is_help=True)
credentials_app = typer.Typer(help="Content credentials: who changed a picture, and how.", no_args_is_help=True)
data_app.command("label")(data_label)
data_app.command("swaps")(data_swaps)
app.add_typer(data_app, name="data")
app.add_typer(models_app, name="models")
app.add_typer(credentials_app, name="credentials")

Set = Annotated[list[str], typer.Option("--set", help="key=value, or system.key=value; may be repeated")]
CommercialOnly = Annotated[
    bool, typer.Option("--commercial-only", help="refuse models and data that do not allow commercial use")
]
Store = Annotated[str, typer.Option(help="model store, a folder or an address such as s3://bucket/models")]


def main() -> None:
    """Run the command line; a RayfaceError is printed without a traceback and exits with 2."""
    try:
        app()
    except RayfaceError as error:
        print(f"rayface: {error}", file=sys.stderr)
        raise SystemExit(2) from None


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.command()
def train(
    systems: Annotated[list[str], typer.Argument(help="for example: parsing enhancement")],
    data: Annotated[list[str], typer.Option(help="a dataset that `rayface data` wrote; system=DIR for one system")],
    preset: Annotated[str, typer.Option(help="tiny, small (if nothing is said) or base; not with --init")] = "",
    workers: Annotated[str, typer.Option(help="a number, or a range such as 1-4 for an elastic group")] = "1",
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU a worker")] = False,
    storage: Annotated[str, typer.Option(help="runs and checkpoints; shared by all nodes")] = "runs",
    name: Annotated[str, typer.Option(help="name of the run; the same name resumes it")] = "",
    store: Store = "",
    set_: Set = [],  # noqa: B006  typer copies it
    set_from: Annotated[str, typer.Option(help="best.json of `python -m tune`; --set and --init win over it")] = "",
    init: Annotated[str, typer.Option(help="model to fine-tune, for example enhancement@3")] = "",
    cpus_per_worker: Annotated[int, typer.Option(help="0: the cluster's CPUs shared out")] = 0,
    track: Annotated[
        str, typer.Option(help="mlflow or wandb: log there too (pip install it); TensorBoard is always written")
    ] = "",
    commercial_only: CommercialOnly = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the resolved configuration and stop")] = False,
) -> None:
    """Train one or several systems on Ray Train, in dependency order: in one group of workers, or at the same time
    where the cluster has room for a group each."""
    from rayface.training.launch import train as train_on_ray
    from rayface.training.request import TrainRequest, parse_data, parse_workers, read_search, resolve

    general, own = parse_data(data)
    searched, searched_init = read_search(set_from) if set_from else ((), "")
    request = TrainRequest(
        systems=tuple(systems),
        data=general,
        data_of=own,
        preset=preset,
        workers=parse_workers(workers),
        gpu=gpu,
        storage=storage,
        name=name,
        store=store,
        overrides=tuple(set_),
        searched=searched,
        init=init or searched_init,
        cpus_per_worker=cpus_per_worker,
        track=track,
        commercial_only=commercial_only,
    )
    print_json(resolve(request).configs if dry_run else train_on_ray(request))


@app.command()
def evaluate(
    system: Annotated[str, typer.Argument(help="for example: enhancement")],
    data: Annotated[str, typer.Option(help="a dataset that `rayface data` wrote")],
    model: Annotated[str, typer.Option(help="name, name@version or a model's folder")] = "",
    split: Annotated[str, typer.Option(help="train, validation or test")] = "test",
    store: Store = "",
    limit: Annotated[int, typer.Option(help="at most so many photos; 0: all")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    set_: Set = [],  # noqa: B006
    commercial_only: CommercialOnly = False,
    no_judges: Annotated[
        bool, typer.Option("--no-judges", help="without the metrics of frozen networks: quicker")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="file for the whole report as JSON")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the whole report as JSON only")] = False,
) -> None:
    """Metrics of a model on a split, with intervals, beside its baselines."""
    from rayface.evaluation.evaluate import evaluate as run_evaluation
    from rayface.evaluation.report import print_report
    from rayface.store import open_store

    opened = open_store(store or None, commercial_only)
    report = run_evaluation(system, data, opened, model or None, split, limit or None, device, not no_judges, set_)
    if as_json:
        print_json(report)
    else:
        print_report(report)
    if output:
        write_json(report, output)


@app.command()
def ablate(
    system: Annotated[str, typer.Argument(help="for example: beauty")],
    data: Annotated[str, typer.Option(help="a dataset that `rayface data` wrote")],
    out: Annotated[str, typer.Option(help="folder for the runs and the table; the same one goes on")],
    seeds: Annotated[str, typer.Option(help="separated by commas; if nothing is said 0,1,2")] = "",
    init: Annotated[str, typer.Option(help="model that every run starts from")] = "",
    store: Store = "",
    preset: Annotated[str, typer.Option(help="tiny, small (if nothing is said) or base; not with --init")] = "",
    set_: Set = [],  # noqa: B006
    split: Annotated[str, typer.Option(help="what the runs are judged on")] = "test",
    limit: Annotated[int, typer.Option(help="at most so many photos; 0: all")] = 0,
    model: Annotated[str, typer.Option(help="a trained model: parts of its use are switched off, no training")] = "",
) -> None:
    """What each part of a system is worth: it is trained whole and with each part off, with several seeds.

    With --model a trained one is judged whole and with each part of its use off."""
    from rayface.comparison import ablate as run
    from rayface.comparison import ablate_use
    from rayface.errors import RayfaceError

    if model:
        if seeds or init or preset or set_:
            raise RayfaceError("--model judges a trained model; leave out --seeds, --init, --preset and --set")
        print(ablate_use(system, data, out, model, store, split, limit or None))
        return

    seeds = seeds or "0,1,2"
    if not all(part.strip().isdigit() for part in seeds.split(",")):
        raise RayfaceError(f"--seeds {seeds!r}: give numbers separated by commas, for example 0,1,2")
    numbers = [int(part) for part in seeds.split(",")]
    print(run(system, data, out, numbers, init, store, preset, set_, split, limit or None))


@app.command()
def apply(
    steps: Annotated[str, typer.Argument(help="steps separated by commas, for example: enhance")],
    source: Annotated[str, typer.Argument(metavar="INPUT", help="a photo or a folder of photos; also an address")],
    target: Annotated[str, typer.Argument(metavar="OUTPUT", help="where the result goes")],
    store: Store = "",
    set_: Set = [],  # noqa: B006
    model: Annotated[list[str], typer.Option(help="step=name@version of another model; may be repeated")] = [],  # noqa: B006
    commercial_only: CommercialOnly = False,
    workers: Annotated[
        int,
        typer.Option(help="a folder by so many processes on the Ray cluster; -1: one a CPU (or GPU); 0: in this one"),
    ] = 0,
    gpu: Annotated[bool, typer.Option("--gpu", help="one GPU a process; with --workers")] = False,
    certificate: Annotated[str, typer.Option(help="PEM file of who signs the results; none: one made now")] = "",
    key: Annotated[str, typer.Option(help="PEM file of its private key")] = "",
    timestamps: Annotated[str, typer.Option(help="address of a time-stamp authority, asked for each result")] = "",
) -> None:
    """Change a photo, or every photo of a folder, without a server.

    With --workers the same command again goes on where a stopped one was; reports lie in OUTPUT/reports.jsonl.
    """
    from rayface.apply import Application, apply_steps, is_folder
    from rayface.apply_pass import apply_to_all
    from rayface.credentials import CredentialSettings
    from rayface.store import open_store

    opened = open_store(store or None, commercial_only)
    words, credentials = steps.split(","), CredentialSettings(certificate, key, timestamps)
    if gpu and not workers:
        raise RayfaceError("--gpu goes with --workers, for example --workers -1")
    if workers and is_folder(source):
        count = None if workers < 0 else workers
        application = Application(words, set_, model, credentials)
        made = apply_to_all(application, source, target, opened, count, gpu, commercial_only, tell)
        print_json(made)
        failed, of = made["failed"], made["photos"]
    else:
        report = apply_steps(words, source, target, opened, set_, model, credentials)
        print_json(report)
        failed, of = sum("error" in photo for photo in report["photos"]), len(report["photos"])
    if failed:
        raise RayfaceError(f"{failed} of {of} photos could not be processed; see their errors in the reports")


@credentials_app.command("show")
def credentials_show(
    photo: Annotated[str, typer.Argument(help="a JPEG, PNG or WebP file")],
    trust: Annotated[str, typer.Option(help="PEM file of root certificates that are trusted")] = "",
) -> None:
    """What a picture's content credentials say; exit status 1 where they do not hold."""
    from pathlib import Path

    from rayface.certificates import read_pem
    from rayface.credentials import read_credentials

    try:
        picture = Path(photo).read_bytes()
    except OSError as error:
        raise RayfaceError(f"{photo} cannot be read ({error}); give a picture") from error
    told = read_credentials(picture, read_pem(trust).decode() if trust else "")
    print_json(told)
    if told["state"] == "invalid":
        raise typer.Exit(1)


@credentials_app.command("make")
def credentials_make(folder: Annotated[str, typer.Argument(metavar="DIR", help="a new folder")]) -> None:
    """Make a certificate for development: its chain, key and root, which nobody trusts yet."""
    from rayface.certificates import write_certificate

    print_json({"written": write_certificate(folder)})


@models_app.command("list")
def models_list(store: Store = "") -> None:
    """Every model with its newest version, system, licence and run."""
    from rich.console import Console
    from rich.table import Column, Table

    from rayface.store import open_store
    from rayface.terms import commercial_use

    opened = open_store(store or None)
    table = Table(Column("model", no_wrap=True), "system", "steps", "licence", "commercial use", "store")
    for name in opened.names():
        info = opened.info(name)
        table.add_row(
            f"{name}@{info['version']}",
            info["system"],
            str(info.get("steps", "")),
            info.get("licence", "unstated"),
            str(commercial_use(info)).lower(),
            info["store"],
        )
    Console().print(table)


@models_app.command("show")
def models_show(ref: str, store: Store = "") -> None:
    """Configuration, metrics and terms of one model."""
    from rayface.store import open_store

    print_json(open_store(store or None).info(ref))


@models_app.command("import")
def models_import(
    source: Annotated[
        Path, typer.Argument(help="weights of another project: a .safetensors or .pth file, or its folder")
    ],
    name: Annotated[str, typer.Option(help="what the store calls it, for example gfpgan")],
    as_: Annotated[
        str, typer.Option("--as", help="the step it offers: enhance or upscale; else what it was made for")
    ] = "",
    size: Annotated[int, typer.Option(help="side of the face crops it is given; 0: its own")] = 0,
    licence: Annotated[str, typer.Option(help="its licence, for example Apache-2.0")] = "unstated",
    terms: Annotated[str, typer.Option(help="what it may be used for, in words")] = "",
    commercial_use: Annotated[
        bool | None, typer.Option("--commercial-use/--no-commercial-use", help="whether commercial use is allowed")
    ] = None,
    store: Store = "",
) -> None:
    """Put weights of another project (GFPGAN, RestoreFormer, Real-ESRGAN, SwinIR ...) into the store, as a step."""
    from rayface.exchange.imports import import_model
    from rayface.store import open_store

    opened = open_store(store or None)
    use = "unstated" if commercial_use is None else commercial_use
    details = {"licence": licence, "terms": terms, "commercial_use": use}
    ref = import_model(source, name, opened, step=as_, size=size, details=details)
    step = opened.info(ref)["config"]["step"]
    print(f"{ref} is in {opened.uri}. Use it: rayface apply {step} INPUT OUTPUT --model {step}={ref}")


@models_app.command("export")
def models_export(
    ref: Annotated[str, typer.Argument(help="name, name@version or a model's folder")],
    out: Annotated[Path, typer.Argument(metavar="OUT.onnx", help="file to write; its description goes beside it")],
    opset: Annotated[int, typer.Option(help="version of the ONNX operators")] = 18,
    store: Store = "",
) -> None:
    """Write a model's networks as ONNX, checked against PyTorch."""
    from rayface.exchange.exports import export_model
    from rayface.store import open_store

    print_json(export_model(open_store(store or None).load(ref), out, opset))


@models_app.command("promote")
def models_promote(ref: str, store: Store = "") -> None:
    """Make name@version the one that the bare name means."""
    from rayface.store import open_store

    open_store(store or None).promote(ref)
    print(f"{ref} is now what {ref.partition('@')[0]!r} means")


def write_json(value: Any, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value, indent=1, default=str) + "\n")
    except OSError as error:
        raise RayfaceError(f"--output {path} cannot be written ({error}); choose another file") from error


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


if __name__ == "__main__":
    main()
