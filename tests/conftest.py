from hypothesis import settings

settings.register_profile("amberline", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("amberline")
