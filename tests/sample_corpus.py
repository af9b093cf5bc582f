"""Twenty-four short passages, questions about them and judgements, for tests."""

from dgr_trainer.data.passages import Passage

_ROWS = [
    ("p01", "Mount Everest", "Mount Everest is the highest mountain on Earth above sea level. It stands in the Himalayas on the border of Nepal and China.", ["what is the tallest mountain in the world", "where is everest"]),
    ("p02", "Amazon River", "The Amazon carries more water than any other river. It rises in the Andes of Peru and flows through Brazil to the Atlantic Ocean.", ["which river carries the most water"]),
    ("p03", "Nile", "The Nile is a long river in Africa that flows north through Egypt into the Mediterranean Sea.", ["what river flows through egypt", "longest river in africa"]),
    ("p04", "Great Barrier Reef", "The Great Barrier Reef lies off the coast of Queensland, Australia. It is the largest system of coral reefs in the world.", ["largest coral reef in the world"]),
    ("p05", "Photosynthesis", "Plants turn light, water and carbon dioxide into sugar and oxygen. Chlorophyll in their leaves takes up the light.", ["how do plants make sugar from light"]),
    ("p06", "Chlorophyll", "Chlorophyll is the green pigment of plants and algae. It takes up blue and red light and reflects green.", ["why are leaves green"]),
    ("p07", "Penicillin", "Penicillin was the first widely used antibiotic. Alexander Fleming noticed in 1928 that a mould killed bacteria.", ["who discovered penicillin", "first antibiotic"]),
    ("p08", "Alexander Fleming", "Alexander Fleming was a Scottish physician who found penicillin. He shared the Nobel Prize in 1945.", ["scottish doctor nobel prize 1945"]),
    ("p09", "Bicycle", "A bicycle has two wheels, pedals and a chain. Its rider balances by steering into a fall.", ["how does a bicycle stay upright"]),
    ("p10", "Steam engine", "A steam engine turns the heat of boiling water into motion. James Watt made it far more efficient.", ["who improved the steam engine"]),
    ("p11", "James Watt", "James Watt was an engineer from Scotland. The unit of power, the watt, is named for him.", ["unit of power named for an engineer"]),
    ("p12", "Moon", "The Moon circles the Earth once in about 27 days. Its gravity raises the tides of the sea.", ["what causes the tides", "how long does the moon take to circle the earth"]),
    ("p13", "Tide", "Tides are the rise and fall of the sea caused by the gravity of the Moon and the Sun.", ["rise and fall of the sea"]),
    ("p14", "Honey bee", "Honey bees live in colonies with one queen. Workers dance to tell others where flowers are.", ["how do bees tell each other where flowers are"]),
    ("p15", "Printing press", "Johannes Gutenberg built a printing press with movable type in Mainz about 1440.", ["who invented printing with movable type"]),
    ("p16", "Great Fire of London", "The Great Fire of London burned for four days in 1666. It began in a bakery in Pudding Lane.", ["when was the great fire of london", "fire that began in a bakery"]),
    ("p17", "Volcano", "A volcano is an opening through which molten rock, ash and gas reach the surface of the Earth.", ["where does molten rock reach the surface"]),
    ("p18", "Pompeii", "Pompeii was a Roman town near Naples. Ash from Mount Vesuvius buried it in the year 79.", ["roman town buried by ash"]),
    ("p19", "Chess", "Chess is a board game for two players with sixteen pieces each. The aim is to checkmate the king.", ["board game with sixteen pieces each"]),
    ("p20", "Piano", "The piano was invented by Bartolomeo Cristofori in Italy about 1700. Hammers strike its strings.", ["who invented the piano"]),
    ("p21", "Violin", "The violin has four strings and is played with a bow. Antonio Stradivari made famous ones in Cremona.", ["instrument with four strings and a bow"]),
    ("p22", "Compass", "A compass needle points to the magnetic north of the Earth. Sailors used it to find their way at sea.", ["how did sailors find north"]),
    ("p23", "Glacier", "A glacier is a mass of ice that moves slowly down a valley under its own weight.", ["slowly moving mass of ice"]),
    ("p24", "Zebra", "Zebras are African horses with black and white stripes. No two have the same pattern.", []),
]  # fmt: skip

PASSAGES = tuple(Passage(id=i, title=t, text=x, pseudo_queries=tuple(q)) for i, t, x, q in _ROWS)

QUERIES = {
    "q01": "which mountain is the highest on Earth",
    "q02": "river that carries the most water to the Atlantic",
    "q03": "who noticed that a mould killed bacteria",
    "q04": "why does the sea rise and fall",
    "q05": "how do bees tell others about flowers",
    "q06": "town buried by ash from Mount Vesuvius",
    "q07": "who made the steam engine more efficient",
    "q08": "green pigment of plants",
    "q09": "inventor of the piano",
    "q10": "fire in London in 1666",
    "q11": "game that ends with checkmate",
    "q12": "animals with black and white stripes",
}

QRELS = {
    "q01": {"p01": 1},
    "q02": {"p02": 1},
    "q03": {"p07": 2, "p08": 1},
    "q04": {"p13": 2, "p12": 1},
    "q05": {"p14": 1},
    "q06": {"p18": 1},
    "q07": {"p10": 1, "p11": 1},
    "q08": {"p06": 2, "p05": 1},
    "q09": {"p20": 1},
    "q10": {"p16": 1},
    "q11": {"p19": 1},
    "q12": {"p24": 1},
}
