"""Small simulators that follow the rules by which the expected figures were made, to the letter.

They are no control plane: no routing scores, no leases, no late binding. They say whether a figure is
understood;
`diptych.planning.simulate` says what diptych would do.

Knows: rules of published and reference models. Does not know: diptych's scheduler and orchestrator.
"""
