"""What a module may return, and what it may make out of nothing on the way."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import Tensor, nn

from cutset.errors import GraphError
from cutset.video.imports.export import Exported, export
from cutset.video.imports.operators import resolve
from cutset.video.imports.trial import same_bits
from cutset.video.torch_stage import TorchStage


class Returns(nn.Module):
    def __init__(self, does: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.does = does
        self.conv, self.linear = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(5, 2)
        self.kept: Tensor
        self.register_buffer("kept", torch.arange(3.0))

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def picture() -> Tensor:
    return torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(3))


def checked(does: Callable[[Any, Tensor], Any]) -> Exported:
    """Exports it and compares every split with the module."""
    torch.manual_seed(0)
    module, x = Returns(does).eval(), picture()
    exported = export(module, x)
    graph, tensors = exported
    assert graph.nodes, "a plan gives every worker some"
    with torch.no_grad():
        right = [t for t in torch.utils._pytree.tree_leaves(module(x)) if isinstance(t, Tensor)]
    for k in range(len(graph.nodes) + 1):
        values = {graph.inputs[0].name: x}
        for part in (range(k), range(k, len(graph.nodes))):
            values |= TorchStage(graph, part, tensors).forward(values)
        assert same_bits([values[name] for name in graph.outputs], right), k
        assert set(graph.cuts[-1].values) == set(graph.outputs)
    return exported


@pytest.mark.parametrize(
    ("does", "names"),
    [
        (lambda m, x: x, ["x.clone"]),
        (lambda m, x: (x, x), ["x.clone", "x.clone"]),
        (lambda m, x: (x, m.conv(x)), ["x", "conv"]),
        (lambda m, x: (m.conv(x), x), ["conv", "x"]),
        (lambda m, x: [m.conv(x)] * 2, ["conv", "conv"]),
        (lambda m, x: {"b": (m.conv(x), [x * 2, {"c": x.mean()}]), "a": x.amax()}, ["conv", "mul", "mean", "amax"]),
        (lambda m, x: (m.linear.weight, m.conv(x), m.kept), ["linear.weight.clone", "conv", "kept.clone"]),
        (lambda m, x: (x.sum(1), torch.arange(5), torch.eye(3)), ["sum", "arange.clone", "eye.clone"]),
        (lambda m, x: torch.linspace(0, 1, 5), ["linspace.clone"]),
        (lambda m, x: (m.conv(x)[:, :0], x.sum()), ["slice", "sum"]),
        (lambda m, x: (lambda y: (y, y.view(-1), y[0]))(m.conv(x)), ["conv", "view", "select"]),
        (lambda m, x: (m.conv(x) > 0, m.conv(x).argmax(1), m.conv(x).to(torch.bfloat16)), ["gt", "argmax", "to"]),
    ],
)
def test_outputs_of_every_shape(does: Any, names: list[str]) -> None:
    assert list(checked(does).graph.outputs) == names


def written_first(m: Any, x: Tensor) -> Any:
    one = torch.empty(2, 3)
    one[:] = x.sum((2, 3))
    two = torch.empty_like(x)
    two[:, :1] = x[:, 1:2]
    two[:, 1:] = 0
    three, four = x.new_empty(3).fill_(2), torch.empty_strided((4,), (1,)).zero_()
    five = torch.empty(7, dtype=torch.int64)
    five.copy_(torch.arange(7))
    return one, two, three.sum() + four.sum() + x + five


CONSTANTS: list[Callable[[Any, Tensor], Any]] = [
    lambda m, x: x + torch.linspace(0, 1, 7) + torch.logspace(0, 1, 7) + torch.eye(6, 7),
    lambda m, x: x * torch.hann_window(7) + torch.hamming_window(7) * torch.kaiser_window(7),
    lambda m, x: x * torch.blackman_window(7) + torch.bartlett_window(7),
    lambda m, x: x[:, :, *torch.tril_indices(6, 6)] + x[:, :, *torch.triu_indices(6, 6)],
    lambda m, x: x + torch.full((7,), float("inf")).reciprocal() + torch.zeros(7) + torch.ones(()),
    lambda m, x: x + torch.zeros(0).sum() + torch.arange(7, dtype=torch.float64) * torch.tensor([2.0]),
    lambda m, x: x + torch.fft.fftfreq(7) + torch.vander(torch.arange(7.0))[3],
    lambda m, x: x + torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")[1],
    lambda m, x: x + torch.view_as_real(torch.polar(torch.ones(7), torch.arange(7.0)))[..., 0],
    lambda m, x: torch.where(x > 0.5, x, 0.0) + torch.ones_like(x) * x.new_zeros(7),
    lambda m, x: m.conv(x) * torch.triu(torch.ones(6, 7)) + torch.block_diag(torch.eye(3), torch.ones(3, 4)),
    written_first,
]


@pytest.mark.parametrize("does", CONSTANTS)
def test_constants_are_folded(does: Any) -> None:
    graph, tensors = checked(does)
    made = [node.name for node in graph.nodes if not node.reads and not node.weights]
    assert not made, "what depends on nothing is computed once"
    assert all(name in tensors for node in graph.nodes for name in node.weights)


def test_a_constant_has_no_name_of_a_weight() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("arange", torch.full((4,), 7.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * torch.arange(4) + self.arange

    graph, tensors = export(Named(), torch.ones(1, 4))
    assert {*tensors} == {"arange", "arange#2"}
    [found] = TorchStage(graph, range(len(graph.nodes)), tensors).forward({"x": torch.ones(1, 4)}).values()
    assert found.tolist() == [[7.0, 8.0, 9.0, 10.0]]


def half_written(m: Any, x: Tensor) -> Tensor:
    made = torch.empty_like(x)
    made[:, 1:] = 1
    return made + x


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (
            lambda m, x: x.sum() + torch.empty(3),
            r"memory that torch\.empty gave it and nothing wrote to at test_outputs",
        ),
        (lambda m, x: (x * 2, torch.empty(3, dtype=torch.bool)), r"memory that torch\.empty gave it"),
        (half_written, r"memory that torch\.empty gave it"),
        (lambda m, x: (x, None), "it returns None where a tensor is expected"),
        (lambda m, x: (x, 3), "it returns 3 where a tensor is expected"),
        (lambda m, x: {"a": x, "b": "text"}, "it returns 'text' where a tensor is expected"),
        (lambda m, x: (), "it returns no tensor"),
        (lambda m, x: torch.complex(x, x), r"aten\.complex\.default makes complex64, which can't be sent"),
        (lambda m, x: x * torch.polar(torch.ones(7), torch.ones(7)), "makes complex64, which can't be sent"),
        (lambda m, x: x.to(torch.float8_e4m3fn), "makes float8_e4m3fn, which can't be sent"),
        (lambda m, x: x.to(torch.uint16), "makes uint16, which can't be sent"),
        (lambda m, x: x.to_sparse(), "makes a tensor that isn't dense, which can't be sent"),
    ],
)
def test_what_is_refused_says_why(does: Any, says: str) -> None:
    with pytest.raises(GraphError, match=f"Returns can't be cut: .*{says}") as caught:
        export(Returns(does), picture())
    assert len(str(caught.value).splitlines()) == 1


@dataclasses.dataclass
class Found:
    boxes: Tensor


def test_another_class_is_named_in_a_line() -> None:
    with pytest.raises(GraphError, match="exported: it returns a Found; tensors may be in tuples, lists") as caught:
        export(Returns(lambda m, x: Found(x)), picture())
    assert len(str(caught.value)) < 150


def test_pythons_own_lines_are_not_the_users() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return x + other

    with pytest.raises(GraphError, match=r"^Two can't be exported: missing a required argument: 'other'$"):
        export(Two(), picture())


def test_complex_inputs_are_refused() -> None:
    with pytest.raises(GraphError, match="complex64, which can't be sent"):
        export(Returns(lambda m, x: x.real), torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize("name", ["zeros.default", "empty.memory_format", "empty_like.default", "new_empty.default"])
def test_a_stage_makes_nothing_out_of_nothing(name: str) -> None:
    with pytest.raises(GraphError, match="operator"):
        resolve(f"aten.{name}")


def test_torchs_own_account_isnt_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """For pictures that are too small for a pool, say, it logs a traceback before it raises."""
    heard, logger = list[logging.LogRecord](), logging.getLogger("torch._subclasses.fake_tensor")
    handler = logging.Handler()
    handler.emit = heard.append
    logger.addHandler(handler)
    try:
        with pytest.raises(GraphError, match="Output size is too small"):
            export(Returns(lambda m, x: nn.functional.max_pool2d(x, 9)), picture())
    finally:
        logger.removeHandler(handler)
    assert not heard
    assert "Traceback" not in capfd.readouterr().err
