"""The contestants. A peer is added by its file of `ROWS` and its place here."""

from __future__ import annotations

import with_jax
import with_mlp_xp
import with_onnxruntime
import with_sklearn
import with_torch
from contest import Peer

OURS = ("mlp_xp", "mlp_xp-spec")  # run in every case, beside the peers asked for

PEERS: dict[str, Peer] = {
    **with_mlp_xp.ROWS,
    **with_torch.ROWS,
    **with_jax.ROWS,
    **with_sklearn.ROWS,
    **with_onnxruntime.ROWS,
}
