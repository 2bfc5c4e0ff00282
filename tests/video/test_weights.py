"""Random weights are the same everywhere; files load, or are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from cutset.errors import CheckpointError
from cutset.video.zoo import build
from cutset.video.zoo.weights import load_weights, random_tensor


def test_random_weights_depend_on_seed_and_name_alone() -> None:
    one = random_tensor("conv.weight", (4, 3, 3, 3), 1)
    assert torch.equal(one, random_tensor("conv.weight", (4, 3, 3, 3), 1))
    assert not torch.equal(one, random_tensor("conv.weight", (4, 3, 3, 3), 2))
    assert not torch.equal(one, random_tensor("convs.weight", (4, 3, 3, 3), 1))
    with_head, without = build("googlenet", seed=5), build("googlenet", seed=5, head=False)
    table = with_head.state_dict()
    assert all(torch.equal(tensor, table[name]) for name, tensor in without.state_dict().items())
    # Bits that every machine must get.
    assert [round(v, 7) for v in random_tensor("a.weight", (1, 3), 0).flatten().tolist()] == EXPECTED


EXPECTED = [-0.2618819, 0.2356861, -0.6030113]


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """What a file of GoogLeNet holds, with the auxiliary heads that training leaves in it."""
    state = dict(build("googlenet", seed=9).state_dict())
    state["aux1.fc1.weight"] = torch.zeros(2, 2)
    state["aux2.conv.bn.num_batches_tracked"] = torch.tensor(3)
    return state


def save(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_load(suffix: str, trained: dict[str, Any], tmp_path: Path) -> None:
    path = save(trained, tmp_path / f"weights{suffix}")
    told: list[str] = []
    network = build("googlenet", weights=path, log=told.append)
    assert told == [f"{path}: 2 tensors are not needed and were left out (aux1, aux2)"]
    assert all(torch.equal(tensor, trained[name]) for name, tensor in network.state_dict().items())
    network = build("googlenet", head=False)
    assert sorted(load_weights(network, path)) == [
        "aux1.fc1.weight",
        "aux2.conv.bn.num_batches_tracked",
        "fc.bias",
        "fc.weight",
    ]
    half = {n: t.half() if t.is_floating_point() else t for n, t in trained.items() if "num_batches" not in n}
    network = build("googlenet", weights=save(half, tmp_path / f"half{suffix}"))
    assert torch.equal(network.conv1.conv.weight, half["conv1.conv.weight"].float())


class Hostile:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_files_that_do_not_fit_are_refused(
    suffix: str, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"weights{suffix}"

    def refused(says: str, network: str = "googlenet") -> None:
        with pytest.raises(CheckpointError, match=says) as caught:
            build(network, weights=path)
        assert len(str(caught.value).splitlines()) <= 2

    refused("is not a file|can't be read")
    path.write_bytes(b"")
    refused("can't be read")
    path.write_bytes(b"\x08\0\0\0\0\0\0\0garbage and more of it")
    refused("can't be read|damaged")
    save(trained, path)
    refused("tensor features.0.weight is missing; is it a file of another network", "alexnet")
    save({n: t for n, t in trained.items() if n != "fc.bias"}, path)
    refused("tensor fc.bias is missing")
    save(trained | {"fc.bias": torch.zeros(999)}, path)
    refused(r"fc.bias has shape \(999,\); the network has \(1000,\)")
    save(trained | {"fc.bias": torch.zeros(1000, dtype=torch.int32)}, path)
    refused("fc.bias has dtype int32; the network has float32")
    save(trained | {"fd.bias": torch.zeros(3)}, path)
    refused("fd.bias is unexpected")
    if suffix == ".pth":
        torch.save(trained | {"x": Hostile()}, path)
        refused("can't be read as torch weights")
        assert not (tmp_path / "ran").exists()
        torch.save([torch.zeros(3)], path)
        refused("something else than a state dictionary")
        torch.save({"fc.bias": torch.zeros(3, 3).to_sparse()}, path)
        refused("not a plain array|can't be read")
