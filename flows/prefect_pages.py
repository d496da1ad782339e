"""Addresses of pages in Prefect's web interface."""

import re


def current_page(address: str) -> str:
    """Return the address of the same page in Prefect's current interface.

    Prefect's `url_for` returns pages of the previous interface. A Prefect server has the current
    one under `/v2`; Prefect Cloud, whose addresses contain an account, has only one interface.

    >>> current_page("http://127.0.0.1:4200/runs/flow-run/1")
    'http://127.0.0.1:4200/v2/runs/flow-run/1'
    """
    if "/account/" in address:
        return address
    return re.sub(r"/((runs/flow-run|deployments/deployment)/[^/]+)$", r"/v2/\1", address)
