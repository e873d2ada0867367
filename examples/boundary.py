"""
Eight networks that vote
========================

Two classes that wind round each other, and eight networks trained in one call: how far their
votes agree shows where there were examples to learn from. Draws with matplotlib, which comes
with ``pip install 'mlp_xp[plot]'``.
"""

import matplotlib.pyplot as plt
import numpy as np

from mlp_xp import MLP

rng = np.random.default_rng(0)
turn = 6 * np.sqrt(rng.uniform(size=600))
y = rng.integers(0, 2, 600)
angle = turn + np.pi * y
X = turn * np.stack([np.cos(angle), np.sin(angle)]) + 0.15 * rng.normal(size=(2, 600))

model = MLP((2, 32, 32, 2), activation="tanh", learning_rate=0.01, seed=range(8))
model.fit(X, y, epochs=100, schedule="one_cycle", progress=False)

# %%
# Every answer has one more axis in front, of the networks:

side = np.linspace(-9, 9, 200)
plane = np.stack(np.meshgrid(side, side)).reshape(2, -1)
P = model.predict_proba(plane)[:, 1]  # (8, 40000): P(class 1) by each network
votes = (P > 0.5).sum(0)
print(f"all eight agree on {np.mean((votes == 0) | (votes == 8)):.0%} of the plane")

# %%
# Where there are examples they agree, and outside each goes on as it likes:

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
left.plot(range(1, 101), np.array(model.history["loss"]), color="#0072b2", alpha=0.6)
left.set(title="Loss of each of eight networks", xlabel="epoch", ylabel="loss", yscale="log")
shares = votes.reshape(200, 200) / 8
drawn = right.contourf(side, side, shares, levels=np.linspace(-1 / 16, 17 / 16, 10), cmap="PuOr")
for name, marker, colour in ((0, "o", "#e66101"), (1, "^", "#5e3c99")):
    right.scatter(*X[:, y == name], s=9, marker=marker, c=colour, edgecolors="white", lw=0.3)
right.set(title="Share of votes for class 1, and the examples", aspect="equal")
figure.colorbar(drawn, ax=right, ticks=[0, 0.5, 1])
plt.show()
