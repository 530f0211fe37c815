"""Running a model: activations captured at sites, segments from one site to another.

Hooks live here and nowhere else; they are removed whatever happens.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ..calculus.rounding import is_close, tolerance
from ..errors import InputError, InteractGraphError, ModelError, first_line
from .batches import Forward, call_model, convert
from .frozen import FrozenValues
from .masks import attention_mask, padded_by_one, trimmed
from .sites import RESULT, Site, first_tensor, plain_model, with_first_tensor

__all__ = ["Runner", "Segment", "prepared", "wide_enough"]

_FUNCTION_FILE = torch.autograd.function.__file__
_Handler = Callable[[Tensor], Tensor | None]


class _Stop(BaseException):
    """Ends a forward pass; not an Exception, so that no model can swallow it."""


@contextlib.contextmanager
def prepared(model: nn.Module) -> Iterator[None]:
    """The model in eval mode without parameter gradients; every flag is restored at the end.

    Fused kernels of attention and of recurrent layers are switched off meanwhile: they have no
    forward-mode derivative.
    """
    training = [(module, module.training) for module in model.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    fused = torch._C._get_mkldnn_enabled()
    try:
        _warn_of_loops(False)
        for module, _ in training:
            module.training = False  # as eval() does, which exported programs refuse
        for parameter, _ in gradients:
            parameter.requires_grad_(False)
        torch.backends.mha.set_fastpath_enabled(False)
        recurrent = any(isinstance(module, nn.RNNBase) for module, _ in training)
        if recurrent:
            torch._C._set_mkldnn_enabled(False)
        with torch.inference_mode(mode=False), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _warn_of_loops(True)
        torch._C._set_mkldnn_enabled(fused)
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for module, mode in training:
            module.training = mode
        for parameter, wanted in gradients:
            parameter.requires_grad_(wanted)


def _warn_of_loops(wanted: bool) -> None:
    """Whether torch prints a line for every use of an operation that it vectorises by a loop."""
    switch = getattr(torch._C._functorch, "_set_vmap_fallback_warning_enabled", None)
    if switch is not None:
        switch(wanted)


@dataclass(frozen=True)
class Runner:
    """A model and how batches become calls of it.

    Attributes:
        model: the network, prepared by `prepared`.
        forward: `forward(model, batch)` for batches of a special kind.
        device: batches are moved there.
        dtype: floating tensors of batches are cast to it.
        cloned: names of sites whose activation the model later changes in place.
        written: buffers that a forward pass writes to, as (module, name): every pass starts from
            the same values, and the model keeps its own.
        changed: places of the batch tensors that a forward pass changes in place; every pass gets
            copies.
        holds_fixed: whether a forward pass computes something under `torch.no_grad()`, or asks for
            gradients by itself.
        trims: sides ("left", "right") of a batch where positions that are padding in all of its
            samples are cut off, because that changes nothing.
        freeze: what segments hold fixed at the values of the samples, see `FrozenValues`.
    """

    model: nn.Module
    forward: Forward | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    cloned: frozenset[str] = field(default_factory=frozenset)
    written: tuple[tuple[nn.Module, str], ...] = ()
    changed: tuple[int, ...] = ()
    holds_fixed: bool = False
    trims: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()

    def watching(self, batch: Any) -> Runner:
        """The runner, told what a forward pass on the batch writes to: buffers, batch tensors.

        Args:
            batch: converted; written to by a model that works in place, so give a copy.
        """
        places = [
            (module, name)
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        every = replace(self, written=tuple(places))
        written = []
        tensors = [
            (place, leaf, leaf._version)
            for place, leaf in enumerate(pytree.tree_leaves(batch))
            if isinstance(leaf, Tensor)
        ]
        with every._own_buffers() as copies:
            watched = [
                (copy, copy._version, place) for copy, place in zip(copies, places, strict=True)
            ]
            with torch.enable_grad(), _NoGradWatcher() as watcher:
                call_model(self.model, batch, self.forward)
            for copy, version, (module, name) in watched:
                if module._buffers[name] is not copy or copy._version != version:
                    written.append((module, name))
        changed = tuple(place for place, tensor, version in tensors if tensor._version != version)
        return replace(
            self, written=tuple(written), changed=changed, holds_fixed=watcher.off
        )  # fmt: skip

    def _own_batch(self, batch: Any) -> Any:
        """The batch with copies of the tensors that the model would change."""
        if not self.changed:
            return batch
        leaves, spec = pytree.tree_flatten(batch)
        for place in self.changed:
            if place < len(leaves) and isinstance(leaves[place], Tensor):
                leaves[place] = leaves[place].clone()
        return pytree.tree_unflatten(leaves, spec)

    @contextlib.contextmanager
    def _own_buffers(self) -> Iterator[list[Tensor]]:
        """Copies in the place of the buffers that are written to."""
        originals = [(module, name, module._buffers[name]) for module, name in self.written]
        copies = []
        try:
            for module, name, buffer in originals:
                assert buffer is not None
                copies.append(buffer.clone())
                module._buffers[name] = copies[-1]
            yield copies
        finally:
            for module, name, buffer in originals:
                module._buffers[name] = buffer

    @staticmethod
    def on(
        model: nn.Module,
        forward: Forward | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        freeze: Sequence[str] = (),
    ) -> Runner:
        """A runner for the model; where device or dtype differ, for a converted copy of it."""
        model = plain_model(model)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ModelError(f"dtype={dtype!r}; it must be a floating dtype such as torch.float64")
        try:
            wanted = None if device is None else torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:
            raise ModelError(f"device={device!r} cannot be used: {first_line(error)}") from error
        tensors = [*model.parameters(), *model.buffers()]
        moved = any(wanted is not None and tensor.device != wanted for tensor in tensors)
        cast = any(
            dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
            for tensor in tensors
        )
        if moved or cast:
            model = copy.deepcopy(model).to(device=wanted, dtype=dtype)
        return Runner(model, forward, wanted, dtype, freeze=tuple(freeze))

    def convert(self, batch: Any) -> Any:
        """The batch on the runner's device and in its dtype; keyword arguments as a plain dict."""
        if self.forward is None and isinstance(batch, Mapping):
            batch = dict(batch)  # such as the output of a tokenizer, whose tensors are hidden
        batch = convert(batch, self.device, self.dtype)
        return trimmed(batch, self.trims) if self.trims else batch

    def trimming(self, batch: Any, sites: Sequence[Site]) -> Runner:
        """The runner, told on which sides padding may be cut off.

        Where one more position of padding changes no activation at the positions that count.

        Args:
            batch: converted.
            sites: where the activations are compared; those without positions have to stay.
        """
        mask, sides = attention_mask(batch), []
        if mask is None or not mask.any():
            return self
        with contextlib.suppress(Exception):  # the look at the model says better what is wrong
            expected = self.activations(batch, sites)
            for start, side in ((1, "left"), (0, "right")):
                longer = padded_by_one(batch, side)
                if longer is None:
                    break
                try:
                    found = self.activations(longer, sites)
                except Exception:  # such as a model that takes one length only
                    continue
                if all(
                    _same_where_it_counts(found[name], value, mask, start)
                    for name, value in expected.items()
                ):
                    sides.append(side)
        return replace(self, trims=tuple(sides))

    def activations(
        self, batch: Any, sites: Sequence[Site], *, whole: bool = False, number: int = 0
    ) -> dict[str, Tensor]:
        """Activations of one forward pass, in order of execution.

        Args:
            batch: a converted batch.
            sites: where to read.
            whole: run to the end instead of stopping at the last site.
            number: of the batch, for messages.

        Raises:
            ModelError: a site is not executed, executed twice or holds no tensor; the
                model fails.
        """
        activations: dict[str, Tensor] = {}

        def keep(site: Site) -> _Handler:
            def handle(value: Tensor) -> None:
                if site.name in activations:
                    raise ModelError(
                        f"layer {site.name!r} is executed twice in one forward pass; only layers "
                        "that run once have one activation. Give each use a module of its own, or "
                        "choose a neighbouring layer"
                    )
                activations[site.name] = value.clone() if site.name in self.cloned else value
                if not whole and len(activations) == len(sites):
                    raise _Stop

            return handle

        try:
            self._run(batch, [(site, keep(site)) for site in sites])
        except InteractGraphError:
            raise
        except Exception as error:
            shapes = [tuple(x.shape) for x in pytree.tree_leaves(batch) if isinstance(x, Tensor)]
            raise ModelError(
                f"the model fails on batch {number} (tensors of shape {shapes}): "
                f"{type(error).__name__}: {error}{_help(error, batch)}"
            ) from error
        missing = [site.name for site in sites if site.name not in activations]
        if missing:
            raise ModelError(
                f"layer {missing[0]!r} is not executed when the model runs on a batch of the data; "
                "choose one that is"
            )
        return activations

    def output(self, batch: Any, changes: Mapping[Site, Callable[[Tensor], Tensor]]) -> Tensor:
        """The result (its first tensor) with activations changed on the way, see `RESULT`.

        Args:
            batch: a converted batch.
            changes: site -> function of its activation.

        Raises:
            ModelError: a site is not executed, or `forward` returns no tensor.
        """
        result: list[Tensor] = []
        seen: set[Site] = set()

        def change(site: Site, function: Callable[[Tensor], Tensor]) -> _Handler:
            def handle(value: Tensor) -> Tensor:
                seen.add(site)
                return function(value.clone() if site.name in self.cloned else value)

            return handle

        handlers = [(site, change(site, function)) for site, function in changes.items()]

        def keep(value: Tensor) -> None:
            result[:] = [value]

        self._run(batch, [*handlers, (RESULT, keep)])
        missing = [site.name for site in changes if site not in seen]
        if missing:
            raise ModelError(f"layer {missing[0]!r} is not executed on a batch of the data")
        return result[0]

    def goes_on_after(self, site: Site) -> bool:
        """Whether the result (`RESULT`) is something else than the activation at a site."""
        last = (site.module, site.end) == ("", "output") and site.reads is None
        return not last or self.forward is not None

    def segment(self, batch: Any, source: Site, target: Site) -> Segment:
        """The function from the source activation to the target activation on this batch."""
        return Segment(self, batch, source, target)

    def _run(self, batch: Any, handlers: Sequence[tuple[Site, _Handler]]) -> None:
        with contextlib.ExitStack() as stack:
            reading: list[tuple[Site, _Handler]] = []
            for site, handler in handlers:
                if site.end == "result":
                    continue
                if site.reads is not None:
                    handler, keep = _side_by_side(site, site.reads, handler)
                    reading.append((site.reads, keep))
                module = self.model.get_submodule(site.module)
                stack.enter_context(_hook(module, site, handler))
            for site, keep in reading:  # last, so that they see what other hooks put there
                stack.enter_context(_hook(self.model.get_submodule(site.module), site, keep))
            stack.enter_context(self._own_buffers())
            with contextlib.suppress(_Stop):
                value = call_model(self.model, self._own_batch(batch), self.forward)
                for site, handler in handlers:
                    if site.end == "result":
                        handler(_tensor_of(value))


def wide_enough(
    model: nn.Module, dtype: torch.dtype | None, freeze: Sequence[str] = ()
) -> torch.dtype | None:
    """What to compute in: single precision for a model in half precision, unless another is given.

    Tangents of half precision would lose what is measured.

    Raises:
        InputError: half precision is asked for where values are frozen.
    """
    if dtype is None and any(parameter.element_size() == 2 for parameter in model.parameters()):
        return torch.float32
    if freeze and dtype in (torch.float16, torch.bfloat16):
        raise InputError(
            f"freeze={list(freeze)} with dtype={dtype}: what is frozen is computed anew, in which "
            "half precision loses too much; give dtype=torch.float32"
        )
    return dtype


def _same_where_it_counts(longer: Tensor, value: Tensor, mask: Tensor, start: int) -> bool:
    """Whether an activation is that of a batch with one more position, where the mask is set."""
    if value.shape[:2] == mask.shape and value.ndim >= 2:
        longer, counts = longer[:, start : start + mask.shape[1]], mask != 0
        if longer.shape != value.shape:
            return False
        longer, value = longer[counts], value[counts]
    share = tolerance("products", value.dtype)
    return longer.shape == value.shape and is_close(longer, value, share)


def _help(error: Exception, batch: Any) -> str:
    """What would mend a call of the model that fails."""
    if "grouped_mm" in str(error) or "mat_a" in str(error):
        return (
            "; the grouped product of a mixture of experts is not there for this dtype: call "
            'model.set_experts_implementation("eager")'
        )
    missing = isinstance(error, TypeError) and "required positional argument" in str(error)
    if missing and isinstance(batch, (tuple, list)) and len(batch) > 1:
        return (
            "; of a tuple, the first element alone is passed to the model: give "
            "forward=lambda model, batch: model(*batch)"
        )
    return ""


_ASKS = torch.Tensor.requires_grad_


class _NoGradWatcher(TorchFunctionMode):
    """Sees whether a model switches gradients off or on, inside `torch.enable_grad()`.

    Attributes:
        off: whether anything is computed under `torch.no_grad()`, or a tensor is made to require
            gradients, as the inputs of layers that are trained with gradient checkpoints are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.off = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if not self.off and not torch.is_grad_enabled() and not _inside_function():
            self.off = any(map(_is_real, pytree.tree_leaves((args, kwargs))))
        self.off = self.off or func is _ASKS
        return func(*args, **(kwargs or {}))


class _HeldFixed(TorchFunctionMode):
    """Makes `torch.no_grad()` mean `detach`, inside `torch.enable_grad()`.

    Reverse mode holds fixed what is computed there, and forward mode by itself does not. A tensor
    that is made to require gradients stays what it is: forward mode cannot do that.

    Attributes:
        on: only then; where gradients are off around everything, nothing is held fixed on purpose.
    """

    def __init__(self) -> None:
        super().__init__()
        self.on = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is _ASKS:
            return args[0]
        if self.on and not torch.is_grad_enabled() and not _inside_function():
            args, kwargs = pytree.tree_map(
                lambda leaf: leaf.detach() if _is_real(leaf) else leaf, (args, kwargs or {})
            )
        return func(*args, **(kwargs or {}))


def _inside_function() -> bool:
    """Whether a `torch.autograd.Function` is computed, in which autograd switches gradients off."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "apply" and code.co_filename == _FUNCTION_FILE:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _tensor_of(result: Any) -> Tensor:
    """The first tensor of what the call of the model gave.

    Raises:
        ModelError: there is none, or it is a single number.
    """
    tensor = first_tensor(result)
    if tensor is None:
        raise ModelError(
            f"the call of the model gives a {type(result).__name__} without a tensor to measure; "
            "forward=lambda model, batch: ... must return the output"
        )
    if not tensor.ndim:
        raise ModelError(
            f"the first tensor of the {type(result).__name__} that the call of the model gives is "
            "one number, such as a loss; to measure samples, return what has one row for each: "
            "forward=lambda model, batch: model(...).logits"
        )
    return tensor


@dataclass(frozen=True)
class Segment:
    """Source activation -> target activation, everything else of the batch held fixed.

    The model runs with the source's activation replaced and no further than the target, so residual
    paths, attention masks and further inputs stay what they are. A plain function of tensors: it
    can be differentiated, vectorised and traced.
    """

    runner: Runner
    batch: Any
    source: Site
    target: Site

    def __call__(self, activation: Tensor) -> Tensor:
        """`[b, ...]` at the source -> `[b, ...]` at the target."""
        result: list[Tensor] = []
        # A model that works in place must not change the caller's tensor.
        given = activation.clone() if self.source.name in self.runner.cloned else activation

        def stop(value: Tensor) -> None:
            result.append(value)
            raise _Stop

        held = _HeldFixed()

        def start(_: Tensor) -> Tensor:
            held.on = torch.is_grad_enabled()
            return given

        handlers: list[tuple[Site, _Handler]] = [(self.source, start), (self.target, stop)]
        frozen = self.frozen().replayed() if self.runner.freeze else None
        with contextlib.ExitStack() as stack:
            if frozen is not None:
                stack.enter_context(frozen)
            if self.runner.holds_fixed:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(held)
            self.runner._run(self.batch, handlers)
        if not result:
            raise ModelError(
                f"layer {self.target.name!r} is not executed when {self.source.name!r} is replaced"
            )
        if frozen is not None:
            frozen.check_all_used()
        return result[0]

    def frozen(self) -> FrozenValues:
        """What is held fixed on this batch; `counts` are of what comes after the source.

        From the batch and not from values at hand, so that a recorded segment holds for others.
        """
        values = FrozenValues(self.runner.freeze)

        def start(_: Tensor) -> None:
            values.counts = dict.fromkeys(values.what, 0)

        def stop(_: Tensor) -> None:
            raise _Stop

        with values:
            self.runner._run(self.batch, [(self.source, start), (self.target, stop)])
        return values


def _side_by_side(site: Site, other: Site, handler: _Handler) -> tuple[_Handler, _Handler]:
    """The handler of a site that reads another one, too, and that of the other one."""
    read: list[Tensor] = []

    def keep(value: Tensor) -> None:
        read[:] = [value.clone()]  # the model may work in place before the site is reached

    def handle(value: Tensor) -> Tensor | None:
        if not read:
            raise ModelError(
                f"layer {other.name!r} is not executed before {site.name!r}, whose features are "
                "computed from it; name the layer that the transcoder reads: source=..."
            )
        if read[0].shape[:-1] != value.shape[:-1]:
            raise ModelError(
                f"layer {other.name!r} has activations {tuple(read[0].shape)} and {site.name!r} "
                f"has {tuple(value.shape)}; features of both need the same samples and positions"
            )
        replacement = handler(torch.cat([read[0], value], -1))
        return None if replacement is None else replacement[..., read[0].shape[-1] :]

    return handle, keep


@contextlib.contextmanager
def _hook(module: nn.Module, site: Site, handler: _Handler) -> Iterator[None]:
    def apply(value: Any) -> Any:
        tensor = first_tensor(value)
        if tensor is None:
            raise ModelError(
                f"layer {site.name!r} holds no tensor: its {site.end} is a {type(value).__name__}"
            )
        replacement = handler(tensor)
        return None if replacement is None else with_first_tensor(value, replacement)

    if site.end == "output":
        handle = module.register_forward_hook(lambda _module, _args, output: apply(output))
    else:
        handle = module.register_forward_pre_hook(
            lambda _module, args, kwargs: apply((args, kwargs)), with_kwargs=True
        )
    try:
        yield
    finally:
        handle.remove()
