"""The values that `cmd` fills into its commands; `cmd` halves each list between training and evaluation."""

from __future__ import annotations

import re

_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_DAY_FORMS = ("{}", "{} morning", "next {}", "{} evening")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(value for value in re.split(r"[;\n]\s*", text.strip()) if value)


CITIES = _listed("""
Athens; Auckland; Barcelona; Berlin; Bogota; Boston; Brussels; Budapest; Cairo; Chicago; Copenhagen; Dallas; Denver
Dublin; Edinburgh; Florence; Geneva; Hamburg; Hanoi; Havana; Helsinki; Istanbul; Jakarta; Kyoto; Lima; Lisbon; London
Lyon; Madrid; Manila; Marseille; Melbourne; Miami; Milan; Montreal; Moscow; Munich; Nairobi; Naples; Oslo; Paris; Porto
Prague; Reykjavik; Rome; Santiago; Seattle; Seoul; Seville; Singapore; Stockholm; Sydney; Tokyo; Toronto; Turin; Vienna
Warsaw; Wellington; Zagreb; Zurich
""")

NAMES = _listed("""
Alice; Amir; Anna; Arthur; Bella; Ben; Carlos; Carol; Chloe; Clara; Daniel; David; Diego; Dora; Elena; Emma; Erik; Eva
Felix; Fiona; Frank; George; Grace; Greta; Hannah; Hugo; Ian; Ingrid; Irene; Ivan; Jack; James; Julia; Karen; Kevin
Laura; Leo; Lucy; Marco; Maria; Martin; Maya; Mia; Nadia; Nina; Noah; Olga; Oscar; Paula; Peter; Rita; Robert; Rosa
Samuel; Sara; Sofia; Thomas; Victor; Wendy; Yusuf
""")

ITEMS = _listed("""
apples; avocados; bagels; bananas; batteries; beans; bin bags; bread rolls; brushes; candles; carrots; cherries
chillies; coffee filters; cookies; cucumbers; eggs; envelopes; figs; garlic bulbs; grapefruits; hazelnut bars
kiwis; leeks; lemons; light bulbs; limes; mangoes; melons; muffins; mushrooms; notebooks; onions; oranges
paper towels; peaches; pears; pencils; peppers; pineapples; plums; potatoes; radishes; sandwiches; sausages
sponges; stamps; tea bags; toothbrushes; tomatoes; turnips; waffles; walnuts; yoghurts
""")

# Where it can be warm, and where one can meet: two lists, so that `room` means something else for either command.
HEATED_ROOMS = _listed("""
attic; basement; bathroom; bedroom; cellar; conservatory; corridor; den; dining room; dressing room; garage; greenhouse
guest room; gym; hallway; home office; kitchen; laundry room; library; living room; loft; lounge; music room; nursery
pantry; playroom; cloakroom; sauna; spare room; studio; study; sunroom; utility room; workshop
""")

MEETING_ROOMS = _listed("""
Amber; Apollo; Aspen; Atlas; Beech; Birch; Cedar; Comet; Coral; Delta; Eagle; Everest; Falcon; Hazel; Heron; Indigo
Jade; Jupiter; Juniper; Lotus; Magnolia; Maple; Mercury; Neptune; Olive; Opal; Orchid; Orion; Pluto; Poplar; Raven; Ruby
Saturn; Sequoia; Topaz; Tulip; Venus; Willow
""")

MESSAGES = _listed("""
call me back; dinner is ready; do not forget the keys; good luck today; happy birthday; have a safe trip
I am at the airport; I am home; I am on my way; I am running late; I am stuck in traffic; I can pick up the kids
I found your wallet; I have a headache; I left the door open; I like the plan; I lost my phone; I missed the bus
I need more time; I will be there soon; lunch is on me; my flight is delayed; please bring an umbrella
please buy some milk; please feed the cat; please water the plants; see you at the station; thank you for the gift
the car is fixed; the code has changed; the dog is asleep; the game starts soon; the kids are in bed
the meeting is cancelled; the parcel has arrived; the report is finished; the shop is closed; the train is full
we are out of coffee; we have guests; we won the match; your table is booked
""")

# Only a few days have a name of their own, so a list long enough to halve also holds times of a day and coming weeks.
# Every form and every weekday occurs in both halves: else the evaluation would ask for words that nobody ever showed.
DAYS = (
    *(form.format(day) for form in _DAY_FORMS for day in _WEEKDAYS),
    *_listed("today; tonight; tomorrow; tomorrow night; this morning; this afternoon; this weekend; next weekend"),
)
