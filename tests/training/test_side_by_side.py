"""Several systems as runs of their own at the same time, and in one group where there is no room."""

from pathlib import Path

import pytest

from rayface.errors import RayfaceError
from rayface.store import ModelStore
from rayface.training.launch import train
from rayface.training.request import TrainRequest, resolve
from rayface.training.side_by_side import groups_at_once, own_request, waits_for


def asked(data: str, storage: Path, **changes: object) -> TrainRequest:
    values = {
        "systems": ("recognition", "parsing"), "data": data, "preset": "tiny", "storage": str(storage), "name": "run",
        "cpus_per_worker": 1, "overrides": ("steps=4", "checkpoint_every=2", "global_batch=4"),
    }  # fmt: skip
    return TrainRequest(**{**values, **changes})  # type: ignore[arg-type]


def test_a_system_waits_for_those_it_learns_from(drawn_faces: str, tmp_path: Path) -> None:
    systems = ("recognition", "enhancement", "parsing")
    request = asked(drawn_faces, tmp_path, systems=systems, overrides=("enhancement.recognition=recognition",))
    plan = resolve(request)
    assert [waits_for(plan, name) for name in ("parsing", "recognition")] == [set(), set()]
    assert waits_for(plan, "enhancement") == {"recognition"}
    alone = own_request(plan, "enhancement", {"recognition": "recognition@7", "parsing": "parsing@2"})
    assert alone.systems == ("enhancement",)
    assert alone.name == "run-enhancement"
    assert alone.overrides[-1] == "enhancement.recognition=recognition@7"
    assert alone.store == plan.request.store_uri


@pytest.mark.ray
def test_with_room_for_both_they_train_at_the_same_time(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    plan = resolve(asked(drawn_faces, tmp_path))
    assert groups_at_once(plan) == 4
    assert groups_at_once(resolve(asked(drawn_faces, tmp_path, cpus_per_worker=3))) == 1
    assert groups_at_once(resolve(asked(drawn_faces, tmp_path, cpus_per_worker=0))) == 1, "a group takes the node"
    done = train(asked(drawn_faces, tmp_path))
    store = ModelStore(done["store"])
    assert {store.info(ref)["system"] for ref in done["models"].values()} == {"parsing", "recognition"}
    assert {store.info(ref)["run"] for ref in done["models"].values()} == {"run-parsing", "run-recognition"}
    assert set(done["faces"]) == {"parsing", "recognition"}
    assert groups_at_once(resolve(asked(drawn_faces, tmp_path, cpus_per_worker=3))) == 2, "it goes on as it was begun"


@pytest.mark.ray
@pytest.mark.slow
def test_one_that_fails_does_not_take_the_others_along(ray_cluster: None, drawn_faces: str, tmp_path: Path) -> None:
    settings = ("steps=4", "checkpoint_every=2", "global_batch=4", "parsing.learning_rate=1e30")
    with pytest.raises(
        RayfaceError, match=r"parsing: .*not numbers.*recognition@1 is trained; the same command goes on"
    ):
        train(asked(drawn_faces, tmp_path, overrides=settings))
