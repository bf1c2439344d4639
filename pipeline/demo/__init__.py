"""The demo's data: a small noisy crawl of real pictures whose truth is known.

:mod:`~pipeline.demo.world` draws concepts, colours and scenes from a seed, :mod:`~pipeline.demo.grammar` puts
a scene into English and judges any text about it, :mod:`~pipeline.demo.noise` says what the web would,
:mod:`~pipeline.demo.picture` renders it, and :mod:`~pipeline.demo.crawl` writes the folder that
``capfilt demo`` cleans. Needs the ``demo`` extra.
"""
