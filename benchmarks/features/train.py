"""Train dictionaries for the grammar model: `python -m edge_circuits.benchmarks.features.train [--out DIR] [--steps N]`.

One for what attention and one for what the MLP adds to the stream, in every layer: top-k autoencoders of 192 features, 8 of
them active at a token, on the sentences that the model learned from. They are written as sparsify writes its own
(`edge_circuits.graphs.features.formats`), in float16. Takes some minutes.

Reference: Gao et al. 2024, Scaling and evaluating sparse autoencoders (top-k; without its loss for dead features).
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import trange

from edge_circuits.benchmarks.study import Study
from edge_circuits.benchmarks.trained import Trained, load
from edge_circuits.graphs.features.dictionary import Dictionary
from edge_circuits.graphs.features.sites import Site, value_at
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.model.adapter import adapt

SHIPPED = Path(__file__).parent / "dictionaries"
MODEL = "grammar"
FOLDERS = {"attention_out": "layers.{}.attention", "mlp_out": "layers.{}.mlp"}
N_FEATURES, K, STEPS, N_SENTENCES, BATCH, RATE = 192, 8, 1500, 6000, 1024, 2e-3


@torch.no_grad()
def values(trained: Trained, n: int, seed: int) -> Iterator[tuple[Site, Float[Tensor, "token d_model"]]]:
    """The values at each site over the words of n sequences, without the first token, which is the same in all."""
    transformer, rng = adapt(trained.model), random.Random(f"dictionaries {seed}")
    drawn = [torch.tensor(trained.language.sequence(rng).tokens) for _ in range(n)]
    tokens = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)
    real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in drawn], batch_first=True).bool()
    real[:, 0] = False
    kept = transformer.forward(transformer.embed(tokens))
    for layer in range(len(transformer.blocks)):
        for kind in FOLDERS:
            site = Site(kind, layer)
            yield site, value_at(transformer, kept, site)[real]


def train(site: Site, x: Float[Tensor, "token d_model"], steps: int, seed: int, quiet: bool = False) -> Dictionary:
    """A top-k autoencoder of some values, in squared distance; the decoder's rows stay of length 1."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(N_FEATURES, x.shape[1], generator=generator), dim=1)
    scale = x.var(0).sum()
    W_dec, W_enc = rows.clone().requires_grad_(), rows.T.clone().requires_grad_()
    b_enc, b_dec = torch.zeros(N_FEATURES).requires_grad_(), x.mean(0).requires_grad_()
    weights = [W_enc, b_enc, W_dec, b_dec]
    optimizer = torch.optim.Adam(weights, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in trange(steps, desc=f"dictionary of {site.name}", unit="step", disable=quiet):
        batch = x[torch.randint(len(x), (BATCH,), generator=generator)]
        dictionary = Dictionary(site, *weights, activation="topk", k=K, centred=True)
        loss = (dictionary.decode(dictionary.encode(batch)) - batch).square().sum(-1).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        W_dec.data = torch.nn.functional.normalize(W_dec.data, dim=1)
    halves = (weight.detach().half().float() for weight in weights)
    return Dictionary(site, *halves, activation="topk", k=K, centred=True)


def save(dictionary: Dictionary, folder: Path, about: dict[str, object]) -> Path:
    """Write a dictionary into a folder of its own, the weights first."""
    from safetensors.torch import save as to_bytes

    own = folder / FOLDERS[dictionary.site.kind].format(dictionary.site.layer)
    own.mkdir(parents=True, exist_ok=True)
    tensors = {"encoder.weight": dictionary.W_enc.T, "encoder.bias": dictionary.b_enc}
    tensors |= {"W_dec": dictionary.W_dec, "b_dec": dictionary.b_dec}
    write_whole(own / "sae.safetensors", to_bytes({name: x.half().contiguous() for name, x in tensors.items()}))
    sizes = {"d_in": len(dictionary.W_enc), "num_latents": dictionary.n_features}
    config = {"activation": "topk", "k": dictionary.k, **sizes}
    return write_whole(own / "cfg.json", (json.dumps(config | about, indent=1) + "\n").encode())


def quality(dictionary: Dictionary, x: Float[Tensor, "token d_model"]) -> dict[str, float]:
    """On other values: the share of variance that is explained, and the share of features that are ever active."""
    features = dictionary.encode(x)
    left = (x - dictionary.decode(features)).square().sum() / (x - x.mean(0)).square().sum()
    return {"explained": 1 - left.item(), "alive": (features > 0).any(0).double().mean().item()}


def _add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder; by default those shipped are replaced")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"steps for each dictionary ({STEPS})")


def _work(given: argparse.Namespace) -> None:
    torch.set_num_threads(1)  # sums keep their order
    trained = load(MODEL)
    fresh = dict(values(trained, 1000, seed=given.seed + 1))
    for site, x in values(trained, N_SENTENCES, seed=given.seed):
        dictionary = train(site, x, given.steps, given.seed, given.quiet)
        about = {"model": MODEL, "steps": given.steps, "seed": given.seed, **quality(dictionary, fresh[site])}
        print(f"{site.name}: explained {about['explained']:.3f}, alive {about['alive']:.2f}", flush=True)
        save(dictionary, given.out, about)


STUDY = Study("features.train", "Train dictionaries for the grammar model.", ("seed", "quiet"), _add, _work)
main, parser = STUDY.main, STUDY.parser

if __name__ == "__main__":
    raise SystemExit(main())
