"""A search for an architecture and its hyper-parameters, by Optuna.

    space     rows: what a search varies, and what that makes of a model
    families  rows: in which networks
    task      the data in three parts, and what a trial does
    study     Optuna's study, at which several processes may work
    front     `mlp_xp.search`, and what it returns

Nothing here is imported before it is asked for.
"""
