"""Named prompt layouts as chat templates, and which layout a run's data is given.

A layout is a Jinja template, like a model's own: what is trained on and what is saved for
inference are one text, the default system message and the beginning of sequence included.
`NAMED_TEMPLATES` is the table to extend.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transformers import PreTrainedTokenizerBase

from training.data_config import DataConfig, FormatName
from training.failures import invalid_spec, unfit
from training.layout_fit import SEQ2SEQ_TEMPLATE, Kind, layout_misfits
from training.rows import Conversation, Instruction, Message

MergeInput = Callable[[str, str], str]
"""From an instruction and its input, which is not empty, to one question."""

ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
ALPACA_SYSTEM_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
VIGOGNE_ALPACA_SYSTEM = "Une consigne suit. Donne la réponse qu'elle demande, juste et complète."
VIGOGNE_CHAT_SYSTEM = (
    "Tu es un assistant. Réponds avec exactitude et politesse, dans la langue de la question."
)
_ALPACA_INPUT = "\n\n### Input:\n"
_END_OF_SENTENCE = "!,-.:;?~ "

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{{ END }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ALPACA = (
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% elif '### Input:' in messages[0]['content'] %}{% set system = SYSTEM_WITH_INPUT %}"
    "{% else %}{% set system = SYSTEM %}{% endif %}"
    "{% if system %}{{ system + '\n\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}"
    "{% elif message['role'] != 'system' %}"
    "{{ raise_exception('the alpaca layout has no role ' + message['role']) }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
# The three of vigogne: a system message, then question and answer by turns. What parts two turns
# stands before the second one, so that nothing follows the last end of sequence.
_TURNS = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = SYSTEM %}{% set turns = messages %}{% endif %}"
)
_ALTERNATE = (
    "{% if message['role'] != ['user', 'assistant'][loop.index0 % 2] %}"
    "{{ raise_exception('after the system message, user and assistant must take turns') }}"
    "{% endif %}"
)
VIGOGNE_ALPACA = (
    "{{ '### System:\n' + system }}"
    "{% for message in turns %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '\n\n### Instruction:\n' + message['content'] + '\n\n### Response:\n' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
VIGOGNE_CHAT_V2 = (
    "{{ '<|system|>: ' + system }}"
    "{% for message in turns %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '\n<|user|>: ' + message['content'] }}"
    "{% else %}{{ '\n<|assistant|>: ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<|assistant|>:' }}{% endif %}"
)
VIGOGNE_CHAT_V3 = (
    "{% for message in turns %}" + _ALTERNATE + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' if loop.first else ' [INST] ' }}"
    "{% if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)


def merge_as_paragraphs(instruction: str, input: str) -> str:
    return f"{instruction}\n\n{input}"


def merge_alpaca(instruction: str, input: str) -> str:
    return f"{instruction}{_ALPACA_INPUT}{input}"


def merge_vigogne(instruction: str, input: str) -> str:
    """One line: the instruction less the mark that ends its sentence, a colon, the input."""
    return f"{instruction.rstrip(_END_OF_SENTENCE)} : {input}"


@dataclass(frozen=True)
class Layout:
    """How the rows of a run are written out.

    Attributes:
        template: The chat template of conversations, saved with the result; None for rows that
            are no conversations.
        merge: How an instruction's input is added to it.
        adds_bos: Whether rows that are no conversations begin with the beginning of sequence.
    """

    template: str | None
    merge: MergeInput = merge_as_paragraphs
    adds_bos: bool = False


@dataclass(frozen=True)
class NamedLayout:
    """A layout of our own.

    Attributes:
        body: The template for a tokenizer, but for the beginning of sequence.
        merge: How an instruction's input is added to it.
    """

    body: Callable[[PreTrainedTokenizerBase], str]
    merge: MergeInput


def alpaca_template() -> str:
    """The layout of Stanford Alpaca's instruction data."""
    return (
        f"{_set('SYSTEM', ALPACA_SYSTEM)}"
        f"{_set('SYSTEM_WITH_INPUT', ALPACA_SYSTEM_WITH_INPUT)}{ALPACA}"
    )


def chatml_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """ChatML; a tokenizer without its end marker ends turns with its own end of sequence."""
    known = "<|im_end|>" in tokenizer.get_added_vocab()
    return CHATML.replace("{{ END }}", "<|im_end|>" if known else "{{ eos_token }}")


def _by_turns(system: str, body: str) -> Callable[[PreTrainedTokenizerBase], str]:
    return lambda _tokenizer: f"{_set('SYSTEM', system)}{_TURNS}{body}"


NAMED_TEMPLATES: Mapping[str, NamedLayout] = MappingProxyType(
    {
        "alpaca": NamedLayout(lambda _tokenizer: alpaca_template(), merge_alpaca),
        "chatml": NamedLayout(chatml_template, merge_as_paragraphs),
        SEQ2SEQ_TEMPLATE: NamedLayout(
            _by_turns(VIGOGNE_ALPACA_SYSTEM, VIGOGNE_ALPACA), merge_vigogne
        ),
        "vigogne_alpaca": NamedLayout(
            _by_turns(VIGOGNE_ALPACA_SYSTEM, VIGOGNE_ALPACA), merge_vigogne
        ),
        "vigogne_chat_v2": NamedLayout(
            _by_turns(VIGOGNE_CHAT_SYSTEM, VIGOGNE_CHAT_V2), merge_vigogne
        ),
        "vigogne_chat_v3": NamedLayout(
            _by_turns(VIGOGNE_CHAT_SYSTEM, VIGOGNE_CHAT_V3), merge_vigogne
        ),
    }
)


def choose_layout(
    tokenizer: PreTrainedTokenizerBase,
    data: DataConfig,
    formats: set[FormatName],
    *,
    has_encoder: bool = False,
) -> Layout:
    """The layout for data of these formats.

    Raises:
        RunError: `data` asks for what this model or these formats do not have.
    """
    kind = Kind(has_encoder=has_encoder, has_template=tokenizer.chat_template is not None)
    for misfit in layout_misfits(data, formats, kind):
        raise unfit(misfit)
    adds_bos = _adds_bos(tokenizer, data)
    if not formats - {"prompt_completion", "text"}:
        return Layout(None, adds_bos=adds_bos)
    if data.template == "auto" and kind.has_template:
        own = tokenizer.get_chat_template()
        return Layout(_with_default_system(own, data.default_system), adds_bos=adds_bos)
    default = SEQ2SEQ_TEMPLATE if has_encoder else "alpaca"
    named = NAMED_TEMPLATES[default if data.template == "auto" else data.template]
    body = _with_default_system(named.body(tokenizer), data.default_system)
    return Layout("{{ bos_token }}" * adds_bos + body, named.merge, adds_bos)


def _adds_bos(tokenizer: PreTrainedTokenizerBase, data: DataConfig) -> bool:
    """As asked; else as the tokenizer does by itself with any text."""
    asked, bos = data.add_bos_token, tokenizer.bos_token_id
    if asked and bos is None:
        raise invalid_spec(
            "The model's tokenizer has no token that begins a sequence.",
            param="training.data.add_bos_token",
            remedy="Set training.data.add_bos_token to false, or to null.",
        )
    if asked is None:
        return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return asked


def _with_default_system(template: str, text: str | None) -> str:
    """`template` with a system message for conversations that have none."""
    if text is None:
        return template
    message = f"{{'role': 'system', 'content': {_literal(text)}}}"
    return (
        "{% if messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{message}] + messages %}}{{% endif %}}{template}"
    )


def _set(name: str, text: str) -> str:
    return f"{{% set {name} = {_literal(text)} %}}"


def _literal(text: str) -> str:
    """`text` as Jinja writes a string; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def as_conversation(row: Instruction, merge: MergeInput) -> Conversation:
    """An instruction as a conversation: what was said before, one question and one answer."""
    question = merge(row.instruction, row.input) if row.input else row.instruction
    system = () if row.system is None else (Message("system", row.system),)
    rounds = (*row.history, (question, row.output))
    turns = (
        message
        for question, answer in rounds
        for message in (Message("user", question), Message("assistant", answer))
    )
    return Conversation(row.line, (*system, *turns))
