"""Result of a check of drift as JUnit XML, which CI systems show."""

from xml.etree import ElementTree

from neuroscope.studies.drift.result import DriftResult


def junit_xml(result: DriftResult) -> str:
    """Return the result as a test suite of one test, which fails unless the verdict is positive.

    The test of a candidate that is identical or compatible passes. The type of a failure is the
    verdict, `drifted` or `inconclusive`.
    """
    verdict = result.decision.verdict
    failed = verdict not in ("identical", "compatible")
    counts = {"tests": "1", "failures": str(int(failed)), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": "neuroscope drift", **counts})
    attributes = {"classname": "neuroscope.drift", "name": result.title}
    case = ElementTree.SubElement(suite, "testcase", attributes)
    if failed:
        failure = {"type": verdict, "message": result.headline}
        ElementTree.SubElement(case, "failure", failure).text = result.summary
    else:
        text = f"{result.headline}\n{result.summary}".strip()
        ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
