"""Tangents as sums of products, operation by operation, against forward mode."""

import pytest
import torch

from interactgraph.calculus.factored_tangents import Walk
from interactgraph.calculus.factors import Factored, NotFactored, Term, axes_of
from interactgraph.calculus.position_factors import FeatureFactors, factor_sizes, factors_of
from interactgraph.calculus.structure import NoClosedForm, read_structure
from interactgraph.calculus.tape import record

B, S, J = 2, 3, 4
W = torch.randn(J, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

W8 = torch.randn(8, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def normal(*sizes, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator, dtype=torch.float64)


def heads(x):
    """`[b, s, 2 d]` -> `[b, 2, s, d]`."""
    return x.unflatten(-1, (2, -1)).transpose(1, 2)


def attend(x, p):
    """Two patterns `[b, 2, t, s]` on the halves of the features."""
    y = p.flatten(0, 1) @ heads(x).reshape(B * 2, S, -1)
    return y.reshape(B, 2, S, -1).transpose(1, 2).reshape(B, S, -1)


def pattern():
    return normal(B, 2, S, S, seed=2).softmax(-1)


def scale():
    return normal(B, S, 1, seed=3)


# name: function of z [b, s, j] and of a tensor of the batch, that tensor, how many terms
FUNCTIONS = {
    "matrix": (lambda z, _: z @ W, torch.ones(()), 1),
    "matrix and offset": (lambda z, _: torch.addmm(W[0], z.view(-1, J), W), torch.ones(()), 1),
    "residual": (lambda z, _: z - 3 * (z @ W @ W.mT) / 2, torch.ones(()), 1),
    "centring": (lambda z, _: z - z.mean(-1, keepdim=True), torch.ones(()), 1),
    "sum": (lambda z, _: torch.rsub(z.sum(-1), 1.0), torch.ones(()), 1),
    "sum of positions": (lambda z, _: z.mean(1), torch.ones(()), 1),
    "number": (lambda z, x: z * x, normal(), 1),
    "scale": (lambda z, x: (z * x).neg() / x.square(), scale(), 1),
    "weight": (lambda z, _: z * W[:, 0] + 1, torch.ones(()), 1),
    "fixed positions": (lambda z, _: z * W[:3, :1], torch.ones(()), 1),
    "pattern": (lambda z, x: x @ z, normal(B, S, S), 1),
    "fixed pattern": (lambda z, _: (z.mT @ W[:3]).mT, torch.ones(()), 1),
    "heads": (lambda z, x: z @ W + attend(z @ W, x), pattern(), 2),
    "heads and matrix": (lambda z, x: attend(z @ W, x) @ W.mT + z, pattern(), 3),
    "one value for two heads": (
        lambda z, x: torch.einsum("bhts,bsd->bthd", x, z).reshape(B, S, -1) @ W8,
        pattern(), 2,
    ),
    "repeated": (
        lambda z, x: (x @ heads(z)[:, :1].repeat_interleave(2, 1)).transpose(1, 2).flatten(2)
        @ W[:, :3], pattern(), 2,
    ),
    "repeated by index": (
        lambda z, x: x @ heads(z).index_select(1, torch.tensor([1, 1])), pattern(), 1,
    ),
    "parts": (lambda z, _: sum(z.split([1, 3], -1)), torch.ones(()), 1),
    "equal parts": (lambda z, _: torch.stack(z.unbind(1), 1) if z is None else z.chunk(2, -1)[1],
                    torch.ones(()), 1),
    "one of the features": (lambda z, _: z[..., -1] * 2, torch.ones(()), 1),
    "one of the positions": (lambda z, _: z[:, 1], torch.ones(()), 1),
    "unbound": (lambda z, _: z.unbind(1)[2], torch.ones(()), 1),
    "some positions": (lambda z, _: z[:, 1:], torch.ones(()), 1),
    "every other one": (lambda z, _: z[..., ::2], torch.ones(()), 1),
    "nothing beside": (lambda z, _: torch.cat([torch.zeros(0), z], 1), torch.ones(()), 1),
    "other order": (lambda z, _: z.permute(2, 0, 1) + W[:, :1, None], torch.ones(()), 1),
    "broadcast": (lambda z, _: z[:, None] + torch.zeros(5, 1, J), torch.ones(()), 1),
    "weights for every position": (
        lambda z, _: torch.bmm(z.transpose(0, 1), W.expand(S, -1, -1)), torch.ones(()), 1,
    ),
    "weights repeated for every position": (
        lambda z, _: torch.bmm(z.transpose(0, 1), W.repeat(S, 1, 1)), torch.ones(()), 1,
    ),
    "two sums": (lambda z, x: torch.baddbmm(z, x, z), normal(B, S, S), 2),
    "difference": (lambda z, x: x - z, normal(B, S, J), 1),
}  # fmt: skip


def start(z, dz, structure_device="cpu"):
    axes = axes_of(z.shape)
    eye = torch.eye(J, dtype=z.dtype, device=structure_device)
    return Factored(axes, (Term(dz[:, :, None], eye[None, None]),))


def walked(function, z, extra, dz, *, real=True):
    tape = record(function, [z, extra])
    source, other = tape.arguments
    dependent = tape.depending(source)
    constants = tape.constants(dependent, [extra])
    first = {source: start(z, dz, "cpu" if real else "meta")}
    return Walk(tape, tape.depending(other), constants, real, first).to(tape.output)


def whole(x, shape):
    """The tangent itself, `[..., j]`."""
    total = sum(t.c * t.u for t in x.terms)
    return total.expand(*x.atoms, J).reshape(*shape, J)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations(name):
    function, extra, n_terms = FUNCTIONS[name]
    z, dz = normal(B, S, J, seed=5), normal(B, S, J, seed=6)
    found = walked(function, z, extra, dz)
    jacobian = torch.func.jacfwd(lambda z: function(z, extra))(z)
    expected = (jacobian * dz).sum((-3, -2))
    assert len(found.terms) == n_terms
    torch.testing.assert_close(
        whole(found, function(z, extra).shape), expected, rtol=1e-10, atol=1e-12
    )


def test_positions_in_another_order():
    """Terms whose c is turned round are others, although their sizes are the same."""
    z, dz = normal(S, S, J, seed=5), normal(S, S, J, seed=6)
    found = walked(lambda z, _: z + 2 * z.transpose(0, 1), z, torch.ones(()), dz)
    eye = torch.eye(J, dtype=z.dtype)
    expected = (dz + 2 * dz.transpose(0, 1))[:, :, None] * eye
    torch.testing.assert_close(whole(found, z.shape), expected)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_features_do_not_depend_on_the_batch(name):
    function, extra, _ = FUNCTIONS[name]
    z, dz = normal(B, S, J, seed=5), normal(B, S, J, seed=6)
    found = walked(function, z, extra, dz)
    other_extra, other_dz = extra * 1.5 + 0.1, normal(B, S, J, seed=7)
    other = walked(function, z, other_extra, other_dz)
    alone = walked(function, z, other_extra, other_dz, real=False)
    assert [t.key for t in found.terms] == [t.key for t in alone.terms]
    for one, two, three in zip(found.terms, other.terms, alone.terms, strict=True):
        torch.testing.assert_close(one.u, two.u)
        assert three.u.device.type == "meta"
        assert three.u.shape == one.u.shape
        torch.testing.assert_close(three.c, two.c)


@pytest.mark.parametrize(
    ("function", "extra", "message"),
    [
        (lambda z, x: z * x, normal(B, S, J), "differ from batch to batch"),
        (lambda z, x: z @ x, normal(J, J), "differ from batch to batch"),
        (lambda z, _: z * W[:3, :4], torch.ones(()), "positions and features"),
        (
            lambda z, _: z.reshape(B, -1) @ normal(S * J, 2),
            torch.ones(()),
            "positions and features|",
        ),
        (lambda z, _: torch.cat([z, z]), torch.ones(()), "side by side"),
        (lambda z, _: z.reshape(B, -1)[:, 2:7], torch.ones(()), "heads and features"),
        (lambda z, _: z.flip(1), torch.ones(()), "flip"),
        (lambda z, x: z[:, x.long()], torch.ones(2), "index"),
    ],
)
def test_what_does_not_factor(function, extra, message):
    z, dz = normal(B, S, J, seed=5), normal(B, S, J, seed=6)
    try:
        found = walked(function, z, extra, dz)
    except NotFactored as error:
        assert any(part in str(error) for part in message.split("|"))  # noqa: PT017
    else:
        assert "|" in message  # in many terms
        assert len(found.terms) == S


def block(z, p, x):
    y = attend(z @ W, p) @ W.mT + z
    h = torch.tanh((y * x) @ W)
    return (y + h @ W.mT) * x


def test_maps_of_a_block():
    """Sizes without numbers; scales behind the nonlinearity; the same features on other shapes."""
    z, tensors = normal(B, S, J, seed=5), [pattern(), scale()]
    structure = read_structure(record(block, [z, *tensors]))
    sizes = factor_sizes(structure, z.shape, z.shape)
    assert sizes.sizes == ((J, 3, 6), (6, J), (J, 3, J))
    assert sizes.products == J * 6 * (3 + J) + J * 3 * J
    dz = normal(B, S, J, seed=6)
    factors = factors_of(structure, dz, z.shape, structure.constants(tensors))
    assert factors.features.sizes == sizes.sizes
    assert factors.features.n_bytes == 8 * (J * 3 * 6 + 6 * J + J * 3 * J)
    slopes = normal(B * S, 6, seed=8)
    rows = torch.tensor([1, 4, 5])
    ((_, a),) = factors.blocks(rows, slopes[rows], J, 3)
    p, x = tensors

    def straight(z):
        y = attend(z @ W, p) @ W.mT + z
        return (y + (slopes.view(B, S, 6) * ((y * x) @ W)) @ W.mT) * x

    expected = (torch.func.jacfwd(straight)(z) * dz).sum((-3, -2)).flatten(0, 1)[rows]
    torch.testing.assert_close(a.permute(1, 2, 0), expected)
    torch.testing.assert_close(factors.total(rows, slopes[rows]), expected.sum(-1))
    again = factors_of(structure, 2 * dz, z.shape, structure.constants(tensors), factors.features)
    assert again.features is factors.features
    torch.testing.assert_close(again.total(rows, slopes[rows]), 2 * expected.sum(-1))
    other = FeatureFactors(factors.features.before[:, :2], *factors.features.sizes[1:])
    with pytest.raises((NotFactored, AttributeError)):
        factors_of(structure, dz, z.shape, structure.constants(tensors), other)


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (lambda h, p, x: p[:, 0] @ h, "positions are mixed behind"),
        (lambda h, p, x: h @ W.mT * x + h @ W.mT, "scaled in several ways"),
        (lambda h, p, x: h[:, 1:], "a part of the positions|other positions"),
        (lambda h, p, x: h.mean(1, keepdim=True), "positions are mixed behind|other positions"),
    ],
)
def test_what_does_not_factor_behind_the_nonlinearity(behind, message):
    z, tensors = normal(B, S, J, seed=5), [pattern(), scale()]
    structure = read_structure(
        record(lambda z, p, x: behind(torch.tanh((p[:, 0] @ z) @ W), p, x), [z, *tensors])
    )
    shape = structure.tape.output.shape
    with pytest.raises(NotFactored, match=message):
        factor_sizes(structure, z.shape, shape)


def test_two_functions_have_no_closed_form():
    z = normal(B, S, J)
    with pytest.raises(NoClosedForm):
        read_structure(record(lambda z, x: torch.tanh(z @ W) * (z @ W), [z, torch.ones(())]))


def test_constants_are_computed_once():
    """What several constants need is evaluated once."""
    z, x = normal(B, S, J), normal(B, S, 1)

    def function(z, x):
        y = x.sin()
        return z * y.exp() + z * (y + 1)

    tape = record(function, [z, x])
    calls = []
    for node in tape.nodes:
        if node.name == "sin":
            node.function = lambda t: calls.append(1) or t.sin()
    found = tape.constants(tape.depending(tape.arguments[0]), [x])
    assert calls == [1]
    values = [v for n, v in found.items() if n not in tape.arguments]
    torch.testing.assert_close(values, [x.sin().exp(), x.sin() + 1])
