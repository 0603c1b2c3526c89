"""Random pairs as a caller gives them."""

from __future__ import annotations

import random


def random_rows(seed: int, n_pairs: int = 7) -> dict[str, list]:
    """Ragged pairs with 1 to 9 tokens and 1 to 3 answers each."""
    rng = random.Random(seed)
    lengths = [rng.randint(1, 9) for _ in range(n_pairs)]
    clean, corrupted = ([[rng.randrange(50) for _ in range(n)] for n in lengths] for _ in range(2))
    answers, wrong = ([[rng.randrange(50) for _ in range(rng.randint(1, 3))] for _ in lengths] for _ in range(2))
    positions = [rng.randrange(n) for n in lengths]
    return dict(clean=clean, corrupted=corrupted, answers=answers, wrong_answers=wrong, positions=positions)
