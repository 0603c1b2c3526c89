"""Edge attribution patching: the gradient on the clean prompt times the source's change.

Reference: Syed, Rager and Conmy 2023, Attribution Patching Outperforms Automated Circuit Discovery, equation 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edge_circuits.eap.gradient_method import OnePass


@dataclass(frozen=True)
class EAP(OnePass):
    """The linear estimate of cutting each edge, at the clean prompt: two forward passes and one backward pass.

    Attributes:
        reader: how an edge's change passes the destination that it enters; "linear" is the published method. See
            `edge_circuits.eap.destinations`.
    """

    short_names: ClassVar = {"eap": {}}
