"""Rules, dashboards and runbooks: their syntax, and whether they speak of what there is."""

import json
import os
import re
import subprocess

import program
import pytest
import yaml

PROMETHEUS = program.DEPLOY / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in (program.DEPLOY / "grafana/dashboards").glob("*.json")}
# What Prometheus itself makes, with the labels that it gives every series.
MADE = {"up": set(), "ALERTS": {"alertstate", "alertname", "severity"}}
TARGET = {"job", "instance", "service", "le"}
# Words of the query language that look like names.
WORDS = {"and", "or", "unless", "on", "by", "without", "ignoring", "bool", "offset"}


def metrics():
    """The names at /metrics with their labels; a histogram has three names."""
    known = {}
    for name, (kind, labels) in program.metrics().items():
        assert (kind == "counter") == name.endswith("_total"), name
        for suffix in ["_bucket", "_count", "_sum"] if kind == "histogram" else [""]:
            known[name + suffix] = labels
    return known


def rules(kind):
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def targets():
    """Every query of the dashboards: where, the query, and the text of its legend."""
    for name, dashboard in DASHBOARDS.items():
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield f"{name}: {panel['title']}", target["expr"], target.get("legendFormat", "")


def queries():
    for rule in rules("record") + rules("alert"):
        texts = " ".join(rule.get("annotations", {}).values())
        yield rule.get("record") or rule["alert"], rule["expr"], re.sub(r"\$labels\.", "", texts)
    yield from targets()


def promtool(*arguments):
    return subprocess.run([os.environ["PHASEGATE_TEST_PROMTOOL"], *arguments], capture_output=True, text=True, check=False)


def used(expression):
    """The series that a query reads, and the labels that it speaks of."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    names = set(re.findall(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)(?=\s*(?:\{|\[|\)|$|[-+*/<>=!]|\s(?:and|or|unless|offset)))", bare))
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", bare)
    selected = re.findall(r"\{([^}]*)\}", bare)
    labels = {label.strip() for part in grouped for label in part.split(",")}
    labels |= {label for part in selected for label in re.findall(r"(\w+)\s*[=!]", part)}
    functions = set(re.findall(r"(\w+)\s*\(", bare))
    return names - functions - WORDS - labels, labels - {""}


def test_the_rules_and_the_configuration_are_sound(tmp_path):
    answer = promtool("check", "rules", str(PROMETHEUS / "rules.yaml"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    for name in ("prometheus.yml", "kubernetes.yml"):
        configuration = yaml.safe_load((PROMETHEUS / name).read_text())
        # Debian's promtool is built without Kubernetes.
        for job in configuration["scrape_configs"]:
            job.pop("kubernetes_sd_configs", None)
        (tmp_path / name).write_text(yaml.safe_dump(configuration))
        answer = promtool("check", "config", "--syntax-only", str(tmp_path / name))
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_rules_fire_when_they_should():
    answer = promtool("test", "rules", str(program.ROOT / "tests/deploy/rules_test.yaml"))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    bad, good = yaml.safe_load((program.ROOT / "tests/deploy/rules_test.yaml").read_text())["tests"]
    (fires,) = bad["promql_expr_test"]
    fired = {re.search(r'alertname="(\w+)"', sample["labels"])[1] for sample in fires["exp_samples"]}
    assert fired == {rule["alert"] for rule in rules("alert")}, "each alert is seen to fire"
    assert not good["promql_expr_test"][0]["exp_samples"]
    assert len(good["input_series"]) == len(bad["input_series"]), "and not to fire on the same, when all is well"


def test_every_query_of_the_dashboards_is_sound(tmp_path):
    found = list(targets())
    assert len(found) > 40
    recorded = []
    for number, (_, expression, _) in enumerate(found):
        expression = re.sub(r"\$__rate_interval", "5m", expression)
        recorded.append({"record": f"query:{number}", "expr": re.sub(r"\$\w+", "x", expression)})
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    answer = promtool("check", "rules", str(file))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    recorded[0]["expr"] += ")"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": recorded}]}))
    assert promtool("check", "rules", str(file)).returncode != 0


def test_only_metrics_and_labels_that_exist_are_used():
    recorded = {rule["record"]: {"service"} for rule in rules("record")}
    known = metrics() | MADE | recorded
    for where, expression, text in queries():
        names, labels = used(expression)
        assert names, f"{where}: no metric found in {expression}"
        unknown = names - set(known)
        assert not unknown, f"{where}: there is no {unknown}"
        labels |= set(re.findall(r"\{\{\s*(\w+)\s*\}\}", text)) - {"value"}
        foreign = labels - TARGET - set().union(*(known[name] for name in names))
        assert not foreign, f"{where}: {names} have no {foreign}"
    for name, dashboard in DASHBOARDS.items():
        for variable in dashboard["templating"]["list"][1:]:
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert label in known[metric], f"{name}: {variable['name']}"


def test_what_is_used_is_told_apart():
    names, labels = used('sum by (a, le) (rate(x_bucket{b="y", c!~"z"}[5m])) / on (d) up > 0.5 unless w')
    assert (names, labels) == ({"x_bucket", "up", "w"}, {"a", "le", "b", "c", "d"})


def test_every_metric_is_looked_at():
    seen = set()
    for _, expression, _ in queries():
        seen |= used(expression)[0]
    # Sums of histograms are for those who ask themselves.
    assert {name for name in metrics() if not name.endswith(("_sum", "_count", "_bucket"))} <= seen


def test_methods_in_rules_exist():
    contracts = "".join(path.read_text() for path in (program.ROOT / "proto").rglob("*.proto"))
    excepted = set()
    for _, expression, _ in queries():
        for part in re.findall(r'rpc_method!~"\.\*/\(([\w|]+)\)"', expression):
            excepted |= set(part.split("|"))
    assert excepted and all(f"rpc {method}(" in contracts for method in excepted)
    streams = set(re.findall(r"rpc (\w+)\([^)]*\) returns \(stream ", contracts.split("phasegate.internal")[0]))
    assert streams <= excepted


def test_every_alert_has_a_page_and_every_page_an_alert():
    alerts = {rule["alert"] for rule in rules("alert")}
    pages = {path.stem: path.read_text() for path in (program.DEPLOY / "runbooks").glob("*.md")}
    assert alerts == set(pages)
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n\n")
        assert text.index("\n## Look\n") < text.index("\n## Do\n")
        assert re.search(r"^```sh\n", text, re.MULTILINE), f"{name} says not what to type"
    for rule in rules("alert"):
        assert rule["annotations"]["runbook"] == f"deploy/runbooks/{rule['alert']}.md"
        assert rule["labels"]["severity"] in ("page", "ticket")


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_can_be_provisioned(name):
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"phasegate-{name}" and dashboard["title"].startswith("Phasegate: ")
    identifiers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"


def test_tables_in_runbooks_exist():
    migrations = {
        name: "".join(path.read_text() for path in (program.ROOT / folder).rglob("postgres/*.sql"))
        for name, folder in [("outbox", "libs/outbox")] + [(n, f"services/{n}") for n in program.SERVICES if n != "gateway"]
    }
    found = 0
    for path in program.files(".md"):
        for service, table in re.findall(r"phasegate_(\w+?)\.(\w+)", path.read_text()):
            found += 1
            assert re.search(rf"create table {table} \(", migrations[service] + migrations["outbox"]), f"{path}: {table}"
    assert found >= 3
