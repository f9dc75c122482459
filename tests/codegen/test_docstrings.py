"""What docstrings say to the reader of another language."""

import dataclasses
import enum

from streamrt.codegen.docstrings import Doc, doc_of, read_doc


def test_the_text_is_everything_before_the_first_section() -> None:
    assert read_doc("One line.\n\n    And ``more``:\n      so.\n\n    Raises:\n        ValueError: Never.\n") == Doc(
        "One line.\n\nAnd `more`:\n  so.", {}
    )


def test_fields_are_told_by_arguments_and_attributes() -> None:
    doc = read_doc(
        """Text.

        Args:
            one: The first,
                on two lines.
            two (int): The second.
                not_a: field

        Attributes:
            three: The third.

        Returns:
            four: No field.
        """
    )
    assert doc.fields == {"one": "The first, on two lines.", "two": "The second. not_a: field", "three": "The third."}


def test_what_stands_before_the_first_field_is_of_none() -> None:
    assert read_doc("Text.\n\nArgs:\n    Those of before.\n    a: One.\nBack at the margin.").fields == {"a": "One."}


def test_nothing_says_nothing() -> None:
    assert read_doc(None) == read_doc("") == Doc("", {})


def test_only_what_the_author_of_a_class_has_written_counts() -> None:
    class Parent:
        """Of the parent."""

    class Child(Parent): ...

    @dataclasses.dataclass
    class Plain:
        a: int

    class Choice(enum.Enum):
        A = 1

    assert doc_of(Parent).text == "Of the parent."
    assert [doc_of(cls).text for cls in (Child, Plain, Choice)] == ["", "", ""]
