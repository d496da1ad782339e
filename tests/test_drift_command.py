"""The command `neuroscope drift`: exit codes, JSON, JUnit XML and errors."""

import json
import shutil
from xml.etree import ElementTree

import pytest
from models import copy_with_weights, make_model

QUICK = ["--replicates", "3", "--alpha", "0.25"]


@pytest.fixture
def models(tmp_path):
    """Return the folders of a base and of a candidate with other weights."""
    base = make_model("llama", tmp_path / "base", head=True)

    def change(weights):
        return {
            name: values * 1.2 if values.ndim == 2 else values for name, values in weights.items()
        }

    return base, copy_with_weights(base, tmp_path / "candidate", change)


def test_the_exit_code_and_the_document_give_the_verdict(
    run_command, database, models, labelled, tmp_path
):
    base, candidate = map(str, models)
    junit = tmp_path / "drift.xml"
    common = ["--prompts", str(labelled), "--json", "--junit", str(junit)]
    for margin, code, verdict in (("0.0001", 1, "drifted"), ("2", 0, "compatible")):
        status, printed = run_command("drift", base, candidate, *common, *QUICK, "--margin", margin)
        document = json.loads(printed.out)
        assert (status, document["verdict"]) == (code, verdict)
        assert {"statistic", "upper", "margin", "p_value", "basis", "behaviour", "readers"} <= {
            *document
        }
        assert {"run_id", "tokens_up", "tokens_down", "address", "report"} <= {*document}
        assert {"site", "layer", "r_median", "one_minus_r", "rms_z", "cka", "local"} <= {
            *document["layers"][0]
        }
        suite = ElementTree.parse(junit).getroot()
        assert suite.get("failures") == str(code)
        assert suite.find("testcase").get("name") == "candidate against base"
        assert (suite.find("testcase/failure") is not None) == bool(code)
    copy = shutil.copytree(base, tmp_path / "copy")
    status, printed = run_command("drift", base, str(copy), *common)
    assert (status, json.loads(printed.out)["verdict"]) == (0, "identical")


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--replicates", "3"], ["--replicates 19"]),
        (["--candidate-dtype", "int3"], ["--candidate-dtype", "int3"]),
        (["--junit", "no/such/drift.xml"], ["no/such"]),
        (["--label", "no"], ["'no'", "topic"]),
        (["--alpha", "0.7"], ["'alpha'", "less than 0.5, found 0.7"]),
        (["--alpha", "0"], ["'alpha'", "more than 0, found 0"]),
        (["--site", "mlp_akt"], ["mlp_act", "resid_post, final, alone"]),
    ],
)
def test_errors_come_before_any_work(run_command, home, models, labelled, options, settings):
    code, printed = run_command("drift", *map(str, models), "--prompts", str(labelled), *options)
    assert code in (2, 74) and not home.exists()
    assert all(setting in printed.err for setting in settings), printed.err
