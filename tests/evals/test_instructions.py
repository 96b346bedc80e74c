"""IFEval's 25 types of instructions, each with replies that follow and replies that do not; and the loose reading."""

from __future__ import annotations

import pytest

from lit_cartridges.evals.instructions import INSTRUCTIONS, Verdict, read_instruction, variants
from lit_cartridges.evals.instructions.sentences import count_sentences

# (type, settings, replies that follow, replies that do not)
CASES = [
    (
        "keywords:existence",
        {"keywords": ["cat", "Rome"]},
        ["A CAT in rome.", "concatenate Romeo"],
        ["A cat.", "dog"],
    ),
    (
        "keywords:frequency",
        {"relation": "at least", "keyword": "plum", "frequency": 2},
        ["Plum plum", "plums, sugarplum"],
        ["one plum"],
    ),
    (
        "keywords:frequency",
        {"relation": "less than", "keyword": "a.b", "frequency": 1},
        ["axb", "none"],
        ["A.B"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["ride", "C++"]},
        ["pride and bridesmaids", "C and more"],
        ["I RIDE.", "(ride)", "ride-on"],
    ),
    (
        "keywords:letter_frequency",
        {"let_relation": "at least", "letter": "E", "let_frequency": 3},
        ["Eee", "three e"],
        ["be me"],
    ),
    (
        "keywords:letter_frequency",
        {"let_relation": "less than", "letter": "!", "let_frequency": 2},
        ["Hi!", "Hi"],
        ["Hi!!"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein kurzer Text, der von gar nichts handelt.", "12 + 3"],
        ["This is a short text about nothing at all."],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "at least", "num_sentences": 3},
        ["One. Two! Three?", "He said: “Go.” She did. So", "Really?! yes. No."],
        [
            "Mr. J. Smith met Dr. Who. And left",
            "At 3.14 p.m. it was v1.2.3, i.e. late.",
            "A title\n\nof a text",
        ],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 2},
        ["One, e.g. this.", "One"],
        ["One. Two."],
    ),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 3},
        ["one two three", "don't go", "one-two-three"],
        ["one two", "..., !"],
    ),
    (
        "length_constraints:number_words",
        {"relation": "less than", "num_words": 3},
        ["one two"],
        ["one two three"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a *** b\n***", "***a***b***"],
        ["a\n\nb", "a", "a***b***c", "a\n***\n\n***\nb"],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        ["a\n\nWeekend, at last", "a\n\n'weekend' it is", 'a\nb\n\n"Weekend." c', "a\n\nweekend\n\n"],
        ["a\n\nweekends", "weekend\n\na", "a\nweekend", "a\n\nweekend\n\nc", "a\n\n\n\nweekend"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] at [street]", "[][]"],
        ["[name]", "[na\nme] [a]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye\nP.S. more", "bye p. s. more"],
        ["Bye\nPS: more", "p.s more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["x\nP.P.S more", "x\np. p. s."],
        ["P.S. more"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "x\n  - a\n- b\ny", "*a\n**bold** is none\n- b"],
        ["* a", "* a\n* b\n* c", "1. a\n2. b", "a * b\nc - d"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b c*", "**a** *b*", "*a* *b* *c*"],
        ["*a*", "** ** *a*", "*a\nb* *c*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3"],
        ["Section 1", "section 1 SECTION 2", "Section one, Section two"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', "```\n[]\n```", "```JSON\n3\n```"],
        ["{'a': 1}", 'Here: {"a": 1}', '{"a": 1,}', "[" * 100_000],
    ),
    (
        "detectable_format:title",
        {},
        ["<<Joy>>\ntext", "text <<a b>> more", "<<<x>>>"],
        ["<Joy>", "<< >>", "<<a\nb>>", "<<>>"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe. So"],
        ["my answer is yes.", "My answer is no", "yes"],
    ),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "a******b******", "******\na\n******\nb"],
        ["a", "a******a", "a\n*****\nb", "a******b******c", "a****** ******b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say hello."},
        ["Say hello. Hello!", "  say HELLO."],
        ["Sure: Say hello.", '"Say hello." Hello!', "Hello!"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions?"},
        ["Bye. any other QUESTIONS?", '"Any other questions?"', "Any other questions?\n"],
        ["Any other questions? No.", "Any questions?", "Any other questions?*"],
    ),
    (
        "startend:quotation",
        {},
        ['"a"', ' "a" and "b"\n', '""'],
        ['"', "“a”", "'a'", 'x "a"'],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["NASA and ESA.", "I'M here", "(USA), [UK]", "A well-KNOWN B", "the NASA's I"],
        ["NASA and Esa", "CO-OP", "mcDONALD 42 7"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "less than", "capital_frequency": 1},
        ["none here 12", "Nasa"],
        ["I am"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THIS IS A TEXT ABOUT NOTHING AT ALL, 3 TIMES."],
        ["THIS IS a TEXT.", "DAS IST EIN KURZER TEXT ÜBER GAR NICHTS, WIE MAN SIEHT.", "123"],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["this is a text about nothing at all, 3 times."],
        ["This is a text.", "das ist ein kurzer text über gar nichts, wie man sieht.", "123"],
    ),
    ("punctuation:no_comma", {}, ["a; b", "a، b"], ["a, b", "1,000"]),
]


def test_all_types_are_here():
    assert {kind for kind, *_ in CASES} == set(INSTRUCTIONS) and len(INSTRUCTIONS) == 25


@pytest.mark.parametrize(("kind", "settings", "good", "bad"), CASES)
def test_a_reply_follows_or_does_not(kind, settings, good, bad):
    rule = read_instruction(kind, settings, "it")
    assert [reply for reply in good if not rule.follows(reply)] == []
    assert [reply for reply in bad if rule.follows(reply)] == []


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("keywords:nope", {}, "it is no type of instruction: 'keywords:nope'; there are "),
        (["x"], {}, "it is no type of instruction: a list"),
        ("startend:quotation", {"x": 1}, "fields that this release does not know: .*x"),
        ("startend:quotation", [], "must be an object"),
        ("keywords:existence", {}, "has no keywords"),
        ("keywords:existence", {"keywords": [1]}, r"keywords\[0\] must be str, found 1"),
        ("length_constraints:number_words", {"relation": "about", "num_words": 3}, "relation='about' must be one of"),
        ("length_constraints:number_words", {"relation": "at least", "num_words": "3"}, "num_words must be a whole"),
        ("change_case:capital_word_frequency", {"capital_relation": "", "capital_frequency": 1}, "capital_relation=''"),
        ("keywords:letter_frequency", {"let_relation": "at least", "letter": "ab", "let_frequency": 1}, "letter='ab'"),
        ("keywords:frequency", {"relation": "at least", "keyword": " ", "frequency": 1}, "keyword=' ' is blank"),
        ("language:response_language", {"language": "tlh"}, "language='tlh' is none that langdetect knows: af"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"},
            "nth_paragraph=3 must be one of 2",
        ),
    ],
)  # fmt: skip
def test_settings_that_a_rule_cannot_have(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        read_instruction(kind, settings, "it")


def test_a_setting_that_is_null_counts_as_left_out():
    assert (
        read_instruction("startend:quotation", {"num_words": None}, "it")
        == INSTRUCTIONS["startend:quotation"]()
    )


def test_eight_readings_of_a_reply():
    assert variants("Sure:\n*a*\nb\nBye") == [
        "Sure:\n*a*\nb\nBye",
        "*a*\nb\nBye",
        "Sure:\n*a*\nb",
        "*a*\nb",
        "Sure:\na\nb\nBye",
        "a\nb\nBye",
        "Sure:\na\nb",
        "a\nb",
    ]


@pytest.mark.parametrize(
    ("reply", "strict", "loose"),
    [
        ('"a"', True, True),
        ('Sure:\n"a"', False, True),
        ('"a"\nBye', False, True),
        ('Sure:\n**"a"**\nBye', False, True),
        ("a", False, False),
        ('Sure:\nyes\n"a"', False, False),
        ("", False, False),
        (" \n ", False, False),
    ],
)
def test_strict_and_loose(reply, strict, loose):
    quoted = read_instruction("startend:quotation", {}, "it")
    no_comma = read_instruction("punctuation:no_comma", {}, "it")
    found = Verdict.of([quoted, no_comma], reply)
    assert (found.strict[0], found.loose[0]) == (strict, loose)
    assert found.strict[1] == found.loose[1] == bool(reply.strip())  # a blank reply follows nothing


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("  \n", 0),
        ("no end", 1),
        ("Who? me! yes.", 3),
        ("Wait... what? Well... No.", 3),
        ('"Go!" he said. (He did.) So.', 4),
        ("1. Go home.\n2. Eat.", 4),  # as Punkt has it
        ("The U.S. Army and the U.S. army", 2),
        ("At 5 p.m. She left. At 5 p.m. on Monday.", 3),
        ("My answer is no. So do I. Then J.J. Owen came.", 3),
        ("**One.** **Two.**", 2),
    ],
)
def test_sentences(text, sentences):
    assert count_sentences(text) == sentences
