"""The demo's data: a small noisy crawl of real images whose truth is known.

:mod:`~capfilt.pipeline.demo.world` draws concepts, colours and scenes from a seed,
:mod:`~capfilt.pipeline.demo.grammar` puts a scene into English and judges any text about it,
:mod:`~capfilt.pipeline.demo.noise` says what the web would, :mod:`~capfilt.pipeline.demo.drawing` renders it, and
:mod:`~capfilt.pipeline.demo.crawl` writes the folder that ``capfilt demo`` cleans. Needs the ``demo`` extra.
"""
