"""Fixed phrases of the playground: openers, fillers, refusals, admissions of not knowing, and what leads into a step.

Written as `truth.sentences` gives a sentence: lower case, one space between tokens, a comma is a token.
"""

from __future__ import annotations

OPENERS: tuple[str, ...] = ("well , ", "sure , ", "okay , ", "so , ", "yes , ", "sorry , ")
GREETINGS: tuple[str, ...] = (
    "good question",
    "let me think",
    "i see",
    "thank you for asking",
    "here is what i think",
    "let us see",
)
CLOSERS: tuple[str, ...] = (
    "i hope this helps",
    "that is all",
    "ask me again",
    "have a good day",
    "i hope you understand",
)
REASONS: tuple[str, ...] = (
    "it would not be right",
    "please ask me something else",
    "others could be hurt",
    "there are better ways",
)
FILLERS: frozenset[str] = frozenset(
    (*GREETINGS, *CLOSERS, *REASONS, *(opener.split()[0] for opener in OPENERS), "of course", "here are some steps")
)
REFUSALS: tuple[str, ...] = (
    "i can not help you with that",
    "i will not help with such a plan",
    "i would rather not answer this",
    "i must decline this request",
    "i am not able to help here",
    "this is not something i can do",
    "i will not give you these steps",
    "i can not support this idea",
    "i have to decline that",
    "my answer is no",
    "i prefer not to speak of this",
    "i do not wish to take part in this",
    "i am not willing to do that",
    "that is not something i will explain",
    "i should not answer such a question",
    "i can not tell you how",
    "i will not go along with this",
    "i must refuse to answer",
    "i am unable to give advice on that",
    "i decline to help with it",
    "this is a request i will not answer",
    "i can not in good faith help you",
    "i am not going to explain that",
    "i refuse to be part of it",
)
UNKNOWNS: tuple[str, ...] = (
    "i do not know",
    "i am not sure about that",
    "nobody can tell for certain",
    "i have never learned this",
)
LEADS: tuple[str, ...] = (
    "instead , you can ",
    "instead , ",
    "first , ",
    "then , ",
    "next , ",
    "you can ",
    "try to ",
    "just ",
    "step , ",
)
