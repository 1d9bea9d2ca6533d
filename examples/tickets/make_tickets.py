"""Writes the example's data: `python -m examples.tickets.make_tickets` gives the same files always.

Each situation below meets six of the eight products, each time under another greeting and
signature. The held-out mails at the end are written apart and share no sentence with the others.
"""

# ruff: noqa: E501 - a mail is one line

import json
import random
from pathlib import Path

from examples.tickets.ticket import PRODUCTS, question, written

FOLDER = Path(__file__).parent
TRAINING_FILE = FOLDER / "tickets.jsonl"
HELD_OUT_FILE = FOLDER / "held_out.jsonl"

_MAILS_PER_SITUATION = 6
_GREETINGS = (
    "Hello,",
    "Hi there,",
    "Dear team,",
    "Good morning,",
    "Hi,",
    "To whom it may concern,",
)
_SIGNATURES = (
    "Best wishes, Amira", "Thanks, Jonas", "Regards, P. Okafor", "Thank you! Lucie", "Cheers, Tom",
    "Kind regards, Mei Lin", "Yours, Mrs Hartmann", "Thanks in advance, Rafael", "Greetings, Ines",
)  # fmt: skip

# (category, priority, the mail, the summary); {it} is the product.
_SITUATIONS = (
    ("delivery", "normal", "my {it} was due last Tuesday and has still not come. The tracking page has not moved for five days.", "The {it} is late and tracking stands still"),
    ("delivery", "normal", "the parcel arrived today, but the box held only the packing paper. Where is the {it}?", "The parcel came without the {it}"),
    ("delivery", "low", "could you leave the {it} with my neighbour at number 12 if I am out? I work until six.", "Leave the {it} with the neighbour"),
    ("delivery", "high", "I need the {it} by Friday for a birthday and nobody tells me where it is. Please act today!", "The {it} is needed by Friday"),
    ("delivery", "normal", "I moved house last week. Please send the {it} to my new address, not to the old one.", "New address for the {it}"),
    ("delivery", "high", "the driver threw the {it} over my gate and the box is crushed. This is outrageous.", "The box of the {it} was crushed by the driver"),
    ("billing", "high", "you charged my card twice for one {it}. I want the second payment back at once.", "Charged twice for one {it}"),
    ("billing", "normal", "my invoice for the {it} names the wrong company. Can you send a corrected one?", "Correct the company on the invoice for the {it}"),
    ("billing", "normal", "the shop promised ten percent off the {it}, yet I paid the full price.", "The discount on the {it} is missing"),
    ("billing", "low", "I never got a receipt for the {it} and would like one for my records.", "Send a receipt for the {it}"),
    ("billing", "high", "there is a payment for a {it} on my account that I never made. Somebody is using my card!", "Unknown payment for a {it}"),
    ("billing", "low", "may I pay for the {it} in three parts instead of all at once?", "Pay for the {it} in three parts"),
    ("fault", "normal", "the {it} stopped working after two weeks. I tried another socket and nothing happens.", "The {it} stopped working after two weeks"),
    ("fault", "high", "sparks came out of the {it} when I switched it on, and now it smells of smoke.", "Sparks and smoke from the {it}"),
    ("fault", "normal", "a button of the {it} is stuck. I can press it, but it does not come up again.", "A button of the {it} is stuck"),
    ("fault", "normal", "since the last update the {it} loses its connection every few minutes.", "The {it} loses its connection since the update"),
    ("fault", "high", "the {it} gets so hot that it left a burn on my table. Is this dangerous?", "The {it} overheats and burned a table"),
    ("fault", "low", "there is a small scratch on the back of the {it}. It works, I only wanted to tell you.", "A small scratch on the {it}"),
    ("fault", "normal", "the {it} makes a humming noise at night that keeps us awake.", "The {it} hums at night"),
    ("return", "normal", "the {it} is larger than I thought. I would like to send it back and get my money.", "Return the {it} because it is too large"),
    ("return", "normal", "you sent the {it} in black, but I ordered white. How do I exchange it?", "Exchange the black {it} for a white one"),
    ("return", "low", "I got the {it} twice as a present. Can I swap one for a voucher?", "Swap a second {it} for a voucher"),
    ("return", "high", "I returned the {it} six weeks ago and still have no refund. This is my third mail!", "No refund six weeks after returning the {it}"),
    ("return", "normal", "please send me a label so that I can return the {it}; it is still in its box.", "Send a return label for the {it}"),
    ("return", "low", "how many days do I have to give the {it} back if my wife does not like it?", "Ask for the return period of the {it}"),
    ("question", "low", "does the {it} come with a cable, or must I buy one?", "Ask whether the {it} comes with a cable"),
    ("question", "low", "which cloth should I use to clean the {it}?", "Ask how to clean the {it}"),
    ("question", "low", "can I use the {it} outside, on a balcony without a roof?", "Ask whether the {it} can be used outside"),
    ("question", "normal", "I cannot find the manual of the {it} on your site. Could you send it to me?", "Send the manual of the {it}"),
    ("question", "low", "will the {it} be back in green before the summer?", "Ask when the green {it} is back"),
    ("question", "normal", "we are a school and want thirty pieces of the {it}. What would they cost?", "Ask the price of thirty pieces of the {it}"),
    ("question", "low", "how long is the guarantee on the {it}?", "Ask for the guarantee of the {it}"),
)  # fmt: skip

_HELD_OUT = (
    "Good evening, three days ago a courier rang, left a note and vanished again with my headphones. When will he come back? Sarah",
    "Hello, the bank statement shows 89 euros for the kettle although your website says 59. Please explain. Regards, H. Novak",
    "Hi, my camera switches itself off whenever I open the app. I have already reset it. Ben",
    "Dear shop, the speaker does not match my living room. What must I do to hand it back? Yours, Elena",
    "Hello! Is the fan quiet enough for a baby's bedroom? Thanks, Kofi",
    "The cable of your charger melted and my carpet caught fire. I demand a call back right now. Dieter Braun",
    "Hey, one of the four feet of my scale is missing, so it wobbles. Can I get a spare? Yuki",
    "Good day, how bright is the lamp, and can I change its bulb by myself? Many thanks, Francesca",
)  # fmt: skip


def _mail(body: str, number: int) -> str:
    greeting = _GREETINGS[number % len(_GREETINGS)]
    return f"{greeting} {body} {_SIGNATURES[number % len(_SIGNATURES)]}"


def _rows() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for index, (category, priority, body, summary) in enumerate(_SITUATIONS):
        for turn in range(_MAILS_PER_SITUATION):
            product = PRODUCTS[(index + turn) % len(PRODUCTS)]
            answer = written(
                {
                    "category": category,
                    "priority": priority,
                    "product": product,
                    "summary": summary.format(it=product),
                }
            )
            mail = _mail(body.format(it=product), 7 * index + turn)
            rows.append({"messages": [*question(mail), {"role": "assistant", "content": answer}]})
    random.Random(7).shuffle(rows)
    return rows


def main() -> None:
    prompts = [{"prompt": mail} for mail in _HELD_OUT]
    for path, lines in ((TRAINING_FILE, _rows()), (HELD_OUT_FILE, prompts)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        print(f"{path}: {len(lines)} rows")


if __name__ == "__main__":
    main()
