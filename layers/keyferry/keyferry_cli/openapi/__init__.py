"""The HTTP interface as an OpenAPI 3.1 document, made from the code that serves it.

Bodies come from the models that the functions check them with (of login and refresh, which are checked
by hand, from models that the tests hold that against), errors from `keyferry.errors.ERRORS`.
What no code says (which routes there are, what they answer, which errors each can give) is in the
tables here, and the tests hold those against the handlers, the template and real answers. The
functions import nothing of this.
"""
