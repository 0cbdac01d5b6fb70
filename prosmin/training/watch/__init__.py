"""What is seen of a run while it trains.

``diagnostics``: numbers of features. ``monitor``: the images behind them, and warnings.
``progress``: who watches, and what they are told after every epoch.
"""
