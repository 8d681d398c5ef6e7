"""StageDance, the synthetic stage: dancers, bodies, backdrops, rendering and videos."""
