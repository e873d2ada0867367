"""The scikit-learn face: estimators, rows in and rows out.

    mlp          MLPClassifier, MLPRegressor: scikit-learn's of these names, on the core's kernels
    neural       NeuralClassifier, NeuralRegressor: layers of any kind
    base         what they share: fitted attributes, fitting
    data         the checks of what they are given
    layouts      how the examples of a neural one lie
    arrays       whose arrays they are, and where an estimator computes
    recipe       from parameters to the core's rows
    objective    what scikit-learn minimises, where it differs from the core
    solvers      epochs as scikit-learn runs them, and L-BFGS
    live         fitted attributes, and the same as the core takes them
    shares       what one that trains alone has of `processes`; ranks: what several have
    headers      what an estimator's file may say
    keeping      files, and to and from scikit-learn's own
    checkpoints  a training that may be killed

Nothing here is imported before it is asked for: scikit-learn comes with it.
"""
