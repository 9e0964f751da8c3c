"""Does an agent remember? Scripted scenarios, public benchmarks, and what they report."""
