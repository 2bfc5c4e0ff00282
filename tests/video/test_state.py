"""A module that keeps something from call to call, or draws numbers, is refused: a stage would do otherwise."""

from __future__ import annotations

import functools
import itertools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn
from torch.nn import functional

from cutset.errors import GraphError
from cutset.stream import Stream
from cutset.video.imports.export import export
from cutset.video.imports.trial import same_bits
from cutset.video.stage import TorchStage
from video.networks import Skips, filled

PICTURE = torch.zeros(1, 3, 4, 4)


class Keeps(nn.Module):
    """A module with attributes; `does` reads and writes them."""

    count = 0

    def __init__(self, does: Callable[[Any, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.does = does
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


class Note:
    def __init__(self) -> None:
        self.seen = 0


def before(m: Any, x: Tensor) -> Tensor:
    y = x * 2
    result = y if m.prev is None else y - m.prev
    m.prev = y
    return result


def first_only(m: Any, x: Tensor) -> Tensor:
    if m.prev is None:
        m.prev = x * 2
    result: Tensor = x - m.prev
    return result


def once(m: Any, x: Tensor) -> Tensor:
    y = x if m.done else x * 2
    m.done = True
    return y


def counts(m: Any, x: Tensor) -> Tensor:
    m.k += 1
    return x * m.k


def counts_for_later(m: Any, x: Tensor) -> Tensor:
    m.k += 1
    return x * (2 if m.k > 100 else 1)


def counts_in_its_class(m: Any, x: Tensor) -> Tensor:
    Keeps.count += 1
    return x * Keeps.count


def appends(m: Any, x: Tensor) -> Tensor:
    m.all.append(1.0)
    return x * len(m.all)


def appends_tensors(m: Any, x: Tensor) -> Tensor:
    m.all.append(x)
    return torch.stack(m.all).sum(0)


def counts_in_a_dictionary(m: Any, x: Tensor) -> Tensor:
    m.table["n"] = m.table.get("n", 0) + 1
    return x * m.table["n"]


def counts_in_an_array(m: Any, x: Tensor) -> Tensor:
    m.array[0] += 1
    return x * float(m.array[0])


def counts_in_an_object(m: Any, x: Tensor) -> Tensor:
    m.note.seen += 1
    return x * m.note.seen


def iterates(m: Any, x: Tensor) -> Tensor:
    return x * next(m.numbers)


def makes_an_attribute(m: Any, x: Tensor) -> Tensor:
    m.fresh = getattr(m, "fresh", 0) + 1
    return x + m.fresh


def remembers_for_nobody(m: Any, x: Tensor) -> Tensor:
    m.last = x * 2
    return x * 2


def writes_to_a_tensor(m: Any, x: Tensor) -> Tensor:
    m.plain.add_(1)
    result: Tensor = x * m.plain
    return result


def writes_to_a_weight(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        m.weight.add_(1)
    result: Tensor = x * m.weight
    return result


@pytest.mark.parametrize(
    ("does", "attributes", "name"),
    [
        (before, {"prev": None}, "attribute prev,"),
        (before, {"prev": torch.zeros(1, 3, 4, 4)}, "attribute prev,"),
        (first_only, {"prev": None}, "attribute prev"),
        (once, {"done": False}, "attribute done"),
        (counts, {"k": 0}, "attribute k,"),
        (counts_for_later, {"k": 0}, "attribute k,"),
        (counts_in_its_class, {}, r"attribute Keeps\.count,"),
        (appends, {"all": []}, "attribute all,"),
        (appends_tensors, {"all": []}, "attribute all"),
        (counts_in_a_dictionary, {"table": {}}, "attribute table,"),
        (counts_in_an_array, {"array": np.zeros(2)}, "attribute array,"),
        (counts_in_an_object, {"note": Note()}, "attribute note,"),
        (iterates, {"numbers": itertools.count(1)}, "attribute numbers,"),
        (makes_an_attribute, {}, "attribute fresh,"),
        (remembers_for_nobody, {}, "attribute last,"),
        (writes_to_a_tensor, {"plain": torch.zeros(1)}, "attribute plain,"),
        (writes_to_a_weight, {"weight": nn.Parameter(torch.zeros(1))}, "parameter weight,"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_state_is_refused_by_name(does: Any, attributes: dict[str, Any], name: str) -> None:
    module = Keeps(does, **attributes)
    with pytest.raises(GraphError, match=f"Keeps can't be .*a call changes its {name}") as caught:
        export(module, PICTURE)
    assert "state" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_state_inside_is_named_with_its_path() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Sequential(Keeps(counts, k=0)))
    with pytest.raises(GraphError, match=r"Sequential can't be cut: a call changes its attribute 1\.0\.k,"):
        export(module, PICTURE)


def test_a_module_that_is_refused_is_as_it_was() -> None:
    for does, name, value in (
        (counts, "k", 0),
        (before, "prev", None),
        (appends, "all", []),
        (counts_in_a_dictionary, "table", {}),
        (once, "done", False),
    ):
        module = Keeps(does, **{name: value})
        with pytest.raises(GraphError):
            export(module, PICTURE)
        assert getattr(module, name) == (type(value)() if value else value)
        assert module.training
    plain = torch.zeros(1)
    with pytest.raises(GraphError):
        export(Keeps(writes_to_a_tensor, plain=plain), PICTURE)
    assert plain.item() == 0
    module = Keeps(makes_an_attribute)
    with pytest.raises(GraphError):
        export(module, PICTURE)
    assert not hasattr(module, "fresh")


def a_counter_outside() -> Callable[[Any, Tensor], Tensor]:
    count = itertools.count(1)
    return lambda m, x: x * next(count)


def the_last_one_outside() -> Callable[[Any, Tensor], Tensor]:
    kept: dict[str, Tensor] = {}

    def does(m: Any, x: Tensor) -> Tensor:
        result = x * 2 - kept.get("last", torch.zeros(()))
        kept["last"] = x * 2
        return result

    return does


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (the_last_one_outside(), "called again with the same picture it gives another result"),
        (a_counter_outside(), "called again with the same picture it gives another result"),
        (lambda m, x: x * random.random(), "called again with the same picture it gives another result"),
        (lambda m, x: x + torch.rand(4), "draws random numbers"),
        (lambda m, x: x + torch.randperm(4), "draws random numbers"),
        (lambda m, x: functional.dropout(x, 0.5, training=True), "draws random numbers"),
        (lambda m, x: x * torch.rand(1, generator=m.generator), "draws random numbers"),
    ],
)
def test_what_can_not_be_named_is_refused_too(does: Any, says: str) -> None:
    with pytest.raises(GraphError, match=says):
        export(Keeps(does, generator=torch.Generator()), PICTURE)


class Trains(nn.Module):
    """A norm that is always in training mode."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.norm, self.own = nn.BatchNorm2d(3), own

    def forward(self, x: Tensor) -> Tensor:
        if self.own:
            self.norm.train()
            result: Tensor = self.norm(x)
            return result
        return functional.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=True)


@pytest.mark.parametrize("own", [True, False])
def test_statistics_that_a_call_changes_are_refused(own: bool) -> None:
    module = Trains(own)
    with pytest.raises(GraphError, match=r"a call changes its buffer norm\.running_mean"):
        export(module, PICTURE)
    assert module.norm.running_mean.abs().sum() == 0


def test_another_branch_while_it_is_exported_is_refused() -> None:
    module = Keeps(lambda m, x: x * 2 if torch.compiler.is_compiling() else x * 3)
    with pytest.raises(GraphError, match="its exported graph gives other results than it does itself"):
        export(module, PICTURE)


def made_once(m: Any, x: Tensor) -> Tensor:
    if m.table is None or m.table.shape != x.shape[-1:]:
        m.table = torch.arange(float(x.shape[-1]))
    result: Tensor = x + m.table
    return result


def test_what_is_made_at_the_first_call_and_then_used_is_no_state() -> None:
    module = Keeps(made_once, table=None)
    graph, tensors = export(module, PICTURE)
    [name] = graph.nodes[0].weights
    assert torch.equal(tensors[name], torch.arange(4.0))


def test_a_first_picture_that_stays_is_refused() -> None:
    def does(m: Any, x: Tensor) -> Tensor:
        if not hasattr(m, "reference"):
            m.reference = x.clone()
        result: Tensor = x - m.reference
        return result

    module = Keeps(does)
    with pytest.raises(GraphError, match=r"\(a call changes its attribute reference\)"):
        export(module, PICTURE)
    assert not hasattr(module, "reference")


def test_a_cache_outside_of_the_module_is_filled_by_a_real_call() -> None:
    table = functools.lru_cache(lambda size: torch.arange(float(size)))
    module = Keeps(lambda m, x: x + table(x.shape[-1]))
    for _ in range(2):
        _, tensors = export(module, PICTURE)
        assert [tensor.tolist() for tensor in tensors.values()] == [[0.0, 1.0, 2.0, 3.0]]
    assert torch.equal(module(PICTURE), PICTURE + torch.arange(4.0))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), "it has layers without sizes; call it once, with a picture"),
        (lambda: torch.jit.trace(nn.Conv2d(3, 4, 3), PICTURE), "it is TorchScript; give the module that it was made"),
    ],
)
def test_what_is_no_plain_module_is_refused_and_left_alone(make: Callable[[], nn.Module], says: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: lazy layers may change, TorchScript is old
        module = make()
        with pytest.raises(GraphError, match=rf"\w+ can't be exported: {says}") as caught:
            export(module, PICTURE)
        assert len(str(caught.value)) < 120
        assert module(PICTURE).shape == (1, 4, 2, 2)


def test_a_module_without_state_is_left_alone_and_exported_again() -> None:
    module = filled(Skips()).train()
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state = torch.get_rng_state()
    one, two = (export(module, torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(i))) for i in (0, 1))
    assert one.graph == two.graph, "it doesn't depend on the picture"
    assert all(part.training for part in module.modules())
    assert same_bits(list(module.state_dict().values()), list(kept.values()))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stream_refuses_state_before_anything_starts() -> None:
    pictures = [np.zeros((3, 8, 8), np.float32)] * 2
    with pytest.raises(GraphError, match="Keeps can't be cut: a call changes its attribute k,"):
        Stream(Keeps(counts, k=0), pictures, workers=["ipc:///nowhere"])


class Hooked(nn.Module):
    """Hands a feature on through a hook, as extractors of features do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.features = nn.Conv2d(3, 4, 3), {}
        self.conv.register_forward_hook(lambda module, given, made: self.features.update(conv=made))

    def forward(self, x: Tensor) -> Tensor:
        self.conv(x)
        result: Tensor = self.features["conv"] * 2
        return result


def normalised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch has a newer kind; models with this one are around
        return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), nn.utils.spectral_norm(nn.Conv2d(4, 2, 1)))


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (Hooked, (1, 3, 8, 8)),
        (normalised, (1, 3, 8, 8)),
        (lambda: nn.LSTM(6, 4, num_layers=2, batch_first=True), (2, 5, 6)),
        (lambda: nn.GRU(6, 4, bidirectional=True), (5, 2, 6)),
    ],
)
def test_what_is_written_before_it_is_read_is_no_state(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, x = make().eval(), torch.rand(shape, generator=torch.Generator().manual_seed(1))
    graph, tensors = export(module, x)
    found = TorchStage(graph, range(len(graph.nodes)), tensors).forward({graph.inputs[0].name: x})
    with torch.no_grad():
        right = torch.utils._pytree.tree_leaves(module(x))
    assert same_bits([found[name] for name in graph.outputs], right)


def test_state_is_refused_where_nothing_is_computed() -> None:
    with torch.device("meta"):
        module = Keeps(before, prev=None)
    with pytest.raises(GraphError, match="a call changes its attribute prev,"):
        export(module, torch.zeros(1, 3, 4, 4, device="meta"))
