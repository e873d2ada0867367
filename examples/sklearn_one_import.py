"""
One changed import
==================

A scikit-learn program as it might stand anywhere. The only line that differs from the original is
the import; parameters, results and habits are the same.
"""

# from sklearn.neural_network import MLPClassifier
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlp_xp import MLPClassifier

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# In a pipeline, with the default network:

model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0, max_iter=300))
model.fit(X_train, y_train)
print(f"accuracy {model.score(X_test, y_test):.4f} after {model[-1].n_iter_} epochs")

# %%
# In a search:

search = GridSearchCV(
    make_pipeline(
        StandardScaler(), MLPClassifier((32,), random_state=0, early_stopping=True, max_iter=300)
    ),
    {"mlpclassifier__alpha": [1e-4, 1e-1], "mlpclassifier__activation": ["relu", "tanh"]},
    cv=3,
)
search.fit(X_train, y_train)
print(search.best_params_, f"{search.score(X_test, y_test):.4f}")
