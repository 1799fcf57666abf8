# MCL on MoCo (arXiv 2104.12565): two MoCos, all four terms of weight 1. model.head.temperature is
# the temperature of the similarities.
kd = dict(type='MCLMoCo', peers=2, temperature=3.0, weight=1.0)
