"""Attaching to sites: the one place that knows where a site's values can be seen and replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lesion.core.errors import ModelError
from lesion.core.sites import Site
from lesion.models import experts
from lesion.models.experts import Routed

if TYPE_CHECKING:
    import torch
    from torch import nn

SiteHook = Callable[["torch.Tensor", "Routed | None"], "torch.Tensor | None"]
"""Given a module's tensor ``[..., width]``, and which tokens it is of where the site is an expert's (its tensor is then
``[routed, width]``); returns another, or None to leave it."""


@contextmanager
def attached(model: nn.Module, hooks: Iterable[tuple[Site, SiteHook]]) -> Iterator[None]:
    """Shows each hook the values at its site, in every pass while the context lasts.

    Nothing of the model is replaced. On leaving, exactly what was added is removed, whatever happened inside.
    Contexts may be left in any order and by any thread; the passes of all threads are shown.

    Raises:
        ModelError: The model has no module of a site's name, or its experts are not what the site says.
    """
    modules: dict[str, Any] = dict(model.named_modules())
    with ExitStack() as stack:
        adopted = False
        # Registered one by one under the stack, so that a failure half way leaves none behind.
        for site, hook in hooks:
            if site.path not in modules:
                raise ModelError(f"the model has no module {site.path!r}; is the site another model's?")
            if site.expert is not None and not adopted:
                stack.enter_context(experts.adopted(model))
                adopted = True
            stack.callback(removal(_attach(modules[site.path], site, hook)))
        yield


def removal(handle: Any) -> Callable[[], None]:
    """What takes away the hook of a handle, also when the collector of garbage has to.

    A handle of torch knows its module by a weak reference, and Python clears the weak references among garbage before it ends
    the generators among it: a dropped context could no longer remove what it attached. So the handle is kept until then.
    """
    _ATTACHED.add(handle)

    def remove() -> None:
        handle.remove()
        _ATTACHED.discard(handle)

    return remove


_ATTACHED: set[Any] = set()
"""The handles of all hooks that are attached."""


def _attach(module: Any, site: Site, hook: SiteHook) -> Any:
    if site.expert is not None:
        if experts.layout(module) is None:
            raise ModelError(f"{site.path} ({type(module).__name__}) has no experts that lesion knows")
        return experts.attach(module, site.expert, site.role, hook)
    if site.side == "input":

        def before(_: Any, args: Any) -> Any:
            changed = hook(args[0], None)
            return None if changed is None else (changed, *args[1:])

        return module.register_forward_pre_hook(before)
    return module.register_forward_hook(lambda _, args, output: hook(output, None))
