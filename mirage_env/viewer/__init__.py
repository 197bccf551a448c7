"""The viewer (`mirage view`): a page that shows a world while it is driven, and what a server gives it for that.

The page is in `page/`: plain HTML, CSS and JavaScript, a client of a world server (`mirage_env.serving`) as others are.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
