"""Prompts that are put into a template, one by one."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from neuroscope.prompts import Prompt, Prompts, digest_of, fill_template


@dataclass(frozen=True)
class FilledPrompts:
    """Prompts whose texts are put into a template.

    >>> questions = FilledPrompts.of(prompts, "Which topic is this? {}")
    """

    prompts: Prompts
    template: str
    digest: str
    """SHA-256 over ids, filled texts and labels, in order."""

    @classmethod
    def of(cls, prompts: Prompts, template: str) -> "FilledPrompts":
        """Return prompts in a template that contains {} once."""
        return cls(prompts, template, digest_of(_filled(prompts, template)))

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return _filled(self.prompts, self.template)

    @property
    def characters(self) -> int:
        """Number of characters of all filled texts together."""
        return self.prompts.characters + len(self.prompts) * (len(self.template) - len("{}"))


def unfilled(prompts: Prompts) -> Prompts:
    """Return prompts without the template that they were put into, if there is one."""
    return prompts.prompts if isinstance(prompts, FilledPrompts) else prompts


def _filled(prompts: Prompts, template: str) -> Iterator[Prompt]:
    for prompt in prompts:
        (text,) = fill_template(template, [prompt.text])
        yield replace(prompt, text=text)
