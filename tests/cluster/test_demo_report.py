from pathlib import Path

from rayface.evaluation.evaluate import evaluate
from tests.tiny_models import save_tiny_models


def test_the_tables_show_what_evaluation_reports(tmp_path: Path, drawn_faces: str) -> None:
    """The demo runs for minutes and in no test; what it shows of evaluations must follow their format."""
    from cluster.demo_report import _enhancement_table, _parsing_table

    store = save_tiny_models(tmp_path)
    reports = {
        system: evaluate(system, drawn_faces, store, split="validation", limit=2, judged=False)
        for system in ("enhancement", "parsing")
    }
    table = _enhancement_table(reports["enhancement"])
    for severity in ("easy", "medium", "hard"):
        values = reports["enhancement"]["metrics"][severity]
        for method in ("input", "bilateral", "model"):
            assert f"<td>{severity}</td><td>{method}</td><td>{values[method]['psnr']['value']:.3g} " in table
    assert "perceptual" not in table, "no judge was asked"
    found = reports["parsing"]["metrics"]
    assert f"Mean F1 {found['mean_f1']['value']:.3g} " in _parsing_table(reports["parsing"])
