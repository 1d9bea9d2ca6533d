"""Templates of our own with the habits that mislead, one for each, and how a talk looks in them.

What each does is what families of models in use do: rendering the beginning of a conversation is
not the beginning of rendering it, headers and empty thoughts stand where the model would speak, a
turn ends differently in the middle and at the end, roles must alternate, the date is written.
"""

from dataclasses import dataclass

from tests.tiny_model import CHATML

IM = "<|im_start|>{{ message['role'] }}\n"


@dataclass(frozen=True)
class Family:
    """A template, and what takes loss of `TALK` with it.

    Attributes:
        learned: Each turn of the assistant with the token that closes it, if the model says it.
        takes_system: The template accepts a system message.
    """

    template: str
    learned: tuple[str, str] = ("red<|im_end|>", "blue<|im_end|>")
    takes_system: bool = True


def _turns(body: str, prompt: str = "<|im_start|>assistant\n") -> str:
    return (
        "{% for message in messages %}" + body + "{% endfor %}"
        "{% if add_generation_prompt %}" + prompt + "{% endif %}"
    )


_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_ANSWER = "{% set answer = message['content'].split('</think>')[-1].lstrip('\n') %}"

FAMILIES: dict[str, Family] = {
    "plain": Family(CHATML),
    "thought before the last answer only": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}" + _ANSWER + "{% if loop.last %}"
            "{{ '" + _EMPTY_THOUGHT.replace("\n", "\\n") + "' + answer }}{% else %}{{ answer }}"
            "{% endif %}{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n",
            "<|im_start|>assistant\n<think>\n",
        )
    ),
    "thought before every answer": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}" + _EMPTY_THOUGHT + "{% endif %}"
            "{{ message['content'] }}<|im_end|>\n"
        )
    ),
    "thought after the last question only": Family(
        "{% set ns = namespace(last=0) %}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        + _turns(
            IM
            + "{% if message['role'] == 'assistant' and loop.index0 > ns.last %}"
            + _EMPTY_THOUGHT
            + "{% endif %}{{ message['content'] }}<|im_end|>\n",
            "<|im_start|>assistant\n<think>\n",
        )
    ),
    "another end at the end": Family(
        _turns(
            IM + "{{ message['content'] }}"
            "{% if loop.last and message['role'] == 'assistant' %}<|endoftext|>"
            "{% else %}<|im_end|>{% endif %}\n"
        ),
        ("red<|im_end|>", "blue<|endoftext|>"),
    ),
    "another end before the end, at which no model stops": Family(
        _turns(
            IM + "{{ message['content'] }}"
            "{% if loop.last and message['role'] == 'assistant' %}<|im_end|>"
            "{% else %}<|endoftext|>{% endif %}\n"
        ),
        ("red", "blue<|im_end|>"),
    ),
    "two tokens at the end, at the second of which the model stops": Family(
        _turns(IM + "{{ message['content'] }}<|endoftext|>reply<|im_end|>\n"),
        ("red<|endoftext|>reply<|im_end|>", "blue<|endoftext|>reply<|im_end|>"),
    ),
    "an answer ends where the next question begins": Family(
        _turns(
            "{% if message['role'] == 'user' %}<|im_end|>{% else %}<|im_start|>{% endif %}"
            "{{ message['content'] }}",
            "<|im_start|>",
        )
    ),
    "an answer ends where the next question begins, behind blanks": Family(
        _turns(
            "{% if message['role'] == 'user' %}{{ ' \n' if loop.index0 else '' }}<|im_end|>"
            "{% else %}<|im_start|>{% endif %}{{ message['content'] }}",
            "<|im_start|>",
        )
    ),
    "an answer ends where the next question begins, after a thought at the end only": Family(
        _turns(
            "{% if message['role'] == 'user' %}<|im_end|>{% else %}<|im_start|>{% endif %}"
            "{{ '<think></think>' if loop.last and message['role'] == 'assistant' }}"
            "{{ message['content'] }}",
            "<|im_start|>",
        )
    ),
    "end of text after all": Family(
        _turns(IM + "{{ message['content'] }}<|im_end|>\n")
        + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    ),
    "prompt unlike the header": Family(
        _turns(IM + "{{ message['content'] }}<|im_end|>\n", "<|im_start|>assistant final:\n")
    ),
    "a channel in the header": Family(
        _turns(
            "<|im_start|>{{ message['role'] }}{% if message['role'] == 'assistant' %} to all"
            "{% endif %}\n{{ message['content'] }}<|im_end|>\n"
        )
    ),
    "system inside the first question": Family(
        "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] + '\n\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
        + _turns(
            IM + "{% if loop.first %}{{ system }}{% endif %}{{ message['content'] }}<|im_end|>\n"
        )
    ),
    "system before the last question": Family(
        "{% set ns = namespace(last=0, system='') %}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
        "{% if message['role'] == 'system' %}{% set ns.system = message['content'] %}{% endif %}"
        "{% endfor %}"
        + _turns(
            "{% if message['role'] != 'system' %}"
            + IM
            + "{% if loop.index0 == ns.last %}{{ ns.system }}{% endif %}"
            "{{ message['content'] }}<|im_end|>\n{% endif %}"
        )
    ),
    "strict alternation": Family(
        _turns(
            "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
            "{{ raise_exception('roles must alternate') }}{% endif %}"
            + IM
            + "{{ message['content'] | trim }}<|im_end|>\n"
        ),
        takes_system=False,
    ),
    "the date": Family(
        "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + CHATML
    ),
    "a marked turn with its header": Family(
        _turns(
            "{% if message['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
            "{{ message['content'] }}<|im_end|>{% endgeneration %}"
            "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
            "{% endif %}{{ '\n' }}"
        )
    ),
    "a marked turn with the blank behind its end": Family(
        _turns(
            "{% if message['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
            "{{ message['content'] }}<|im_end|>\n{% endgeneration %}"
            "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
            "{% endif %}"
        )
    ),
    "a marked turn without its end": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
            "{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n"
        )
    ),
    "a marked turn, and end of text after all": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
            "<|im_end|>{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}"
            "{{ '\n' }}"
        )
        + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    ),
    "a marked turn, its end marked apart": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
            "{% endgeneration %}{% generation %}<|im_end|>{% endgeneration %}"
            "{% else %}{{ message['content'] }}<|im_end|>{% endif %}{{ '\n' }}"
        )
    ),
    "a marked turn with its header, of which the prompt says more": Family(
        _turns(
            "{% if message['role'] == 'assistant' %}{% generation %}<|im_start|>assistant\n"
            "{{ message['content'] }}<|im_end|>{% endgeneration %}"
            "{% else %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>"
            "{% endif %}{{ '\n' }}",
            "<|im_start|>assistant\n<think>\n",
        )
    ),
    "a thought begun by the prompt": Family(
        _turns(IM + "{{ message['content'] }}<|im_end|>\n", "<|im_start|>assistant\n<think>\n")
    ),
    "a marked thought begun by the prompt": Family(
        _turns(
            IM + "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
            "<|im_end|>{% endgeneration %}{% else %}{{ message['content'] }}<|im_end|>{% endif %}"
            "{{ '\n' }}",
            "<|im_start|>assistant\n<think>\n",
        )
    ),
    "trimmed": Family(_turns(IM + "{{ message['content'].strip() }}<|im_end|>\n")),
    "blanks before the end": Family(_turns(IM + "{{ message['content'] }} \n<|im_end|>\n")),
}
