"""`keyferry doctor`: what of a deployed stack is not as it should be (docs/doctor.md).

`look` asks AWS and gives facts, `checks` judges them, and `rules` is the list of what is judged.
"""
