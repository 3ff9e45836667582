"""A pass as one page of HTML, to step through in a browser."""

from rnn_numpy.debug.page.write import Page, html, show, write_html

__all__ = ["Page", "html", "show", "write_html"]
