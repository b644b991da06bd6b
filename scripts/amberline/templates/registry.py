"""Templates by name: each is a file of this folder that says `TEMPLATE = …`."""

from pathlib import Path

from amberline.core.registry import Registry
from amberline.templates.base import Template


class TemplateError(KeyError):
    """There is no such template: one message."""

    def __str__(self) -> str:
        """The message, without KeyError's quotes."""
        return str(self.args[0])


_REGISTRY: Registry[Template] = Registry(Path(__file__).parent, "template", "TEMPLATE", error=TemplateError)
template_names, template_file, load_template = _REGISTRY.names, _REGISTRY.file, _REGISTRY.load


def chat_templates() -> list[str]:
    """Names of the templates that have a place for turns."""
    return [name for name in template_names() if load_template(name).chats]
