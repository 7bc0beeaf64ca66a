//! Both directions, by tables and by whatever a generator comes up with.

use phasegate_proto::definition::v1 as definition;
use phasegate_proto::instance::v1 as instance;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    Faults, Reason, Style, decode, dynamic_from_json, dynamic_to_json, encode, from_json, message, parse,
    pool, to_brief_json, to_json,
};

const DEFINITION: &str = "phasegate.definition.v1.ProcessDefinition";
const INSTANCE: &str = "phasegate.instance.v1.ProcessInstance";
const START: &str = "phasegate.instance.v1.StartInstanceRequest";
const TASK: &str = "phasegate.instance.v1.Task";
const POLL: &str = "phasegate.worker.v1.PollTasksRequest";
const AUDIT: &str = "phasegate.instance.v1.ListAuditEntriesRequest";
const STORE: &str = "phasegate.artifact.v1.StoreArtifactRequest";

#[test]
fn the_pool_has_comments_and_options() {
    let service = pool().get_service_by_name("phasegate.gateway.v1.GatewayService").unwrap();
    let method = service.methods().next().unwrap();
    let http = pool().get_extension_by_name("google.api.http").unwrap();
    assert!(method.options().has_extension(&http));
    let file = service.parent_file();
    let locations = file.file_descriptor_proto().source_code_info.as_ref().unwrap();
    assert!(locations.location.iter().any(|location| location.leading_comments().contains("installation")));
}

#[test]
fn writes_what_people_read() {
    let instance = instance::ProcessInstance {
        id: "proc-inst-123".to_owned(),
        status: instance::InstanceStatus::Running.into(),
        health: instance::InstanceHealth::WaitingOnHuman.into(),
        progress_percent: 25,
        facts: [("requirements_approved".to_owned(), false)].into(),
        started_at: Some(prost_types::Timestamp { seconds: 1_769_851_800, nanos: 250_000_000 }),
        context: Some(prost_types::Struct {
            fields: [
                ("userCount".to_owned(), prost_types::Value::from(5000.0)),
                ("ratio".to_owned(), prost_types::Value::from(0.5)),
                ("idpType".to_owned(), prost_types::Value::from("okta".to_owned())),
            ]
            .into(),
        }),
        ..instance::ProcessInstance::default()
    };
    let json = to_json(&instance, INSTANCE).unwrap();
    assert_eq!(json["status"], "running");
    assert_eq!(json["health"], "waiting_on_human");
    assert_eq!(json["startedAt"], "2026-01-31T09:30:00.250Z");
    assert_eq!(json["context"].to_string(), r#"{"idpType":"okta","ratio":0.5,"userCount":5000}"#);
    assert_eq!(json["facts"], json!({"requirements_approved": false}));
    assert_eq!(
        (&json["phase"], &json["completedPhases"], &json["version"]),
        (&json!(""), &json!([]), &json!(0))
    );
    assert!(json.get("estimatedCompletion").is_none() && !json.to_string().contains("null"), "{json}");

    let brief = to_brief_json(&instance, INSTANCE).unwrap();
    let keys: Vec<&str> = brief.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["context", "facts", "health", "id", "progressPercent", "startedAt", "status"];
    assert_eq!(keys, expected);
}

#[test]
fn unset_enums_and_optional_scalars_are_absent() {
    let json = to_json(&definition::ProcessDefinition::default(), DEFINITION).unwrap();
    for absent in ["onTimeout", "status", "description", "timeout", "errorHandling", "contextSchema"] {
        assert!(json.get(absent).is_none(), "{absent} in {json}");
    }
    assert_eq!(json["draft"], false);
    assert_eq!(json["agents"], json!({}));
    let set = definition::ProcessDefinition { description: Some(String::new()), ..Default::default() };
    assert_eq!(to_json(&set, DEFINITION).unwrap()["description"], "");
}

#[test]
fn large_whole_numbers_are_text() {
    let task = instance::Task { fencing_token: 9_007_199_254_740_993, ..Default::default() };
    let json = to_json(&task, TASK).unwrap();
    assert_eq!(json["fencingToken"], "9007199254740993");
    assert_eq!(from_json::<instance::Task>(&json, TASK).unwrap(), task);
}

#[test]
fn reads_what_people_write() {
    let json = json!({
        "id": "d", "phases": [{"order": 2, "parallelExecution": false, "tasks": [{"id": "t"}]}],
        "humans": {"ciso": {"raidRole": "approver", "canDelegate": null}},
        "gates": [{"type": "approval"}],
        "errorHandling": {"taskFailure": "retry_with_escalation", "maxRetries": 0},
        "contextSchema": {"deep": [null, true, "x", {"n": -1.5}]},
        "labels": {"a/b": "c"},
    });
    let read: definition::ProcessDefinition = from_json(&json, DEFINITION).unwrap();
    assert_eq!(read.phases[0].parallel_execution, Some(false));
    assert_eq!(read.phases[0].order, 2);
    assert_eq!(read.humans["ciso"].raid_role(), definition::RaidRole::Approver);
    assert_eq!(read.gates[0].r#type(), definition::GateType::Approval);
    let errors = read.error_handling.clone().unwrap();
    assert_eq!(
        (errors.task_failure(), errors.max_retries),
        (definition::TaskFailureAction::RetryWithEscalation, Some(0))
    );
    assert_eq!(read.labels["a/b"], "c");
    let back = to_brief_json(&read, DEFINITION).unwrap();
    assert_eq!(back["contextSchema"], json["contextSchema"]);
    let dynamic = dynamic_from_json(&message(DEFINITION).unwrap(), &json).unwrap();
    assert_eq!(dynamic_to_json(&dynamic).unwrap(), to_json(&read, DEFINITION).unwrap());
}

#[test]
fn every_fault_is_reported_with_its_path() {
    let json = json!({
        "name": 3,
        "phases": [
            {"order": 1.5, "requiredAproval": []},
            {"tasks": [{"required_approvals": ["x"], "priority": "High"}, {"input": []}]},
        ],
        "humans": {"a/b": {"raidRole": 2, "nonsense": 1}},
        "onTimeout": "unspecified",
        "escalationPath": "me",
    });
    let Faults(faults) = from_json::<definition::ProcessDefinition>(&json, DEFINITION).unwrap_err();
    let mut found: Vec<(&str, &str)> =
        faults.iter().map(|fault| (fault.path.as_str(), fault.reason.as_str())).collect();
    found.sort_unstable();
    let expected = [
        ("/escalationPath", "TYPE_INVALID"),
        ("/humans/a~1b/nonsense", "UNKNOWN_FIELD"),
        ("/humans/a~1b/raidRole", "ENUM_INVALID"),
        ("/name", "TYPE_INVALID"),
        ("/onTimeout", "ENUM_INVALID"),
        ("/phases/0/order", "INVALID_NUMBER"),
        ("/phases/0/requiredAproval", "UNKNOWN_FIELD"),
        ("/phases/1/tasks/0/priority", "ENUM_INVALID"),
        ("/phases/1/tasks/0/required_approvals", "UNKNOWN_FIELD"),
        ("/phases/1/tasks/1/input", "TYPE_INVALID"),
    ];
    assert_eq!(found, expected);
    let message_of = |path: &str| faults.iter().find(|fault| fault.path == path).unwrap().message.clone();
    assert!(message_of("/phases/0/requiredAproval").contains("did you mean requiredApprovals?"));
    assert!(message_of("/phases/1/tasks/0/required_approvals").contains("did you mean requiredApprovals?"));
    assert!(message_of("/phases/1/tasks/0/priority").contains("low, normal, high, urgent"));
    assert!(message_of("/humans/a~1b/nonsense").contains("raidRole"));
}

#[test]
fn values_of_the_wrong_kind_are_refused() {
    let table = [
        (START, json!([]), "", Reason::TypeInvalid),
        (START, json!({"validateOnly": "true"}), "/validateOnly", Reason::TypeInvalid),
        (START, json!({"context": "x"}), "/context", Reason::TypeInvalid),
        (START, json!({"context": {"n": 9_007_199_254_740_993_u64}}), "/context/n", Reason::InvalidNumber),
        (START, json!({"externalParticipants": [null]}), "/externalParticipants/0", Reason::TypeInvalid),
        (START, json!({"labels": {"a": null}}), "/labels/a", Reason::TypeInvalid),
        (TASK, json!({"fencingToken": 9_007_199_254_740_993_u64}), "/fencingToken", Reason::InvalidNumber),
        (TASK, json!({"fencingToken": "9223372036854775808"}), "/fencingToken", Reason::InvalidNumber),
        (TASK, json!({"fencingToken": "1.0"}), "/fencingToken", Reason::InvalidNumber),
        (TASK, json!({"attempt": 2_147_483_648_u64}), "/attempt", Reason::InvalidNumber),
        (TASK, json!({"attempt": "1"}), "/attempt", Reason::TypeInvalid),
        (TASK, json!({"startedAt": "2026-01-31"}), "/startedAt", Reason::TimestampInvalid),
        (TASK, json!({"startedAt": "2026-02-30T00:00:00Z"}), "/startedAt", Reason::TimestampInvalid),
        (TASK, json!({"startedAt": 5}), "/startedAt", Reason::TimestampInvalid),
        (POLL, json!({"wait": "30"}), "/wait", Reason::DurationInvalid),
        (POLL, json!({"wait": "1h"}), "/wait", Reason::DurationInvalid),
        (STORE, json!({"rawContent": "*"}), "/rawContent", Reason::TypeInvalid),
    ];
    for (name, json, path, reason) in table {
        let Faults(faults) = encode(&message(name).unwrap(), &json).unwrap_err();
        let found: Vec<(&str, Reason)> =
            faults.iter().map(|fault| (fault.path.as_str(), fault.reason)).collect();
        assert_eq!(found, [(path, reason)], "{json}");
    }
}

#[test]
fn times_and_lengths_of_time_are_text() {
    for (text, seconds, nanos) in
        [("30s", 30, 0), ("1.5s", 1, 500_000_000), ("0s", 0, 0), ("-2.25s", -2, -250_000_000)]
    {
        let read: phasegate_proto::worker::v1::PollTasksRequest =
            from_json(&json!({"wait": text}), POLL).unwrap();
        assert_eq!(read.wait, Some(prost_types::Duration { seconds, nanos }), "{text}");
        assert_eq!(to_json(&read, POLL).unwrap()["wait"], text);
    }
    for (text, written) in [
        ("2026-01-31T09:30:00Z", "2026-01-31T09:30:00Z"),
        ("2026-01-31T09:30:00.123456Z", "2026-01-31T09:30:00.123456Z"),
        ("2026-01-31T09:30:00+02:00", "2026-01-31T07:30:00Z"),
    ] {
        let read: instance::ListAuditEntriesRequest = from_json(&json!({"since": text}), AUDIT).unwrap();
        assert_eq!(to_json(&read, AUDIT).unwrap()["since"], written);
    }
}

#[test]
fn content_may_be_any_json_and_bytes_are_base64() {
    for content in [json!(null), json!([]), json!({}), json!("x"), json!([[1, [2.5, {"a": null}]]])] {
        let bytes = encode(&message(STORE).unwrap(), &json!({"content": content})).unwrap();
        let back = decode(&message(STORE).unwrap(), &bytes, Style::Brief).unwrap();
        assert_eq!(back, json!({"content": content}));
    }
    for text in ["-_8=", "+/8=", "+/8"] {
        let read: phasegate_proto::artifact::v1::StoreArtifactRequest =
            from_json(&json!({"rawContent": text}), STORE).unwrap();
        assert_eq!(read.raw_content, [0xfb, 0xff]);
        assert_eq!(to_json(&read, STORE).unwrap()["rawContent"], "+/8=");
    }
}

#[test]
fn what_is_accepted_can_be_read_by_every_service() {
    for open in ["{\"a\":", "["] {
        let close = if open == "[" { "]" } else { "}" };
        for levels in 1..64 {
            let text = format!("{}1{}", open.repeat(levels), close.repeat(levels));
            let json = json!({"content": parse(text.as_bytes()).unwrap()});
            match encode(&message(STORE).unwrap(), &json) {
                Ok(bytes) => {
                    let read: phasegate_proto::artifact::v1::StoreArtifactRequest =
                        prost::Message::decode(bytes.as_slice()).unwrap();
                    let artifact = phasegate_proto::artifact::v1::Artifact {
                        content: read.content,
                        ..Default::default()
                    };
                    let answer =
                        phasegate_proto::artifact::v1::GetArtifactResponse { artifact: Some(artifact) };
                    let bytes = prost::Message::encode_to_vec(&answer);
                    let again: phasegate_proto::artifact::v1::GetArtifactResponse =
                        prost::Message::decode(bytes.as_slice()).unwrap();
                    assert_eq!(again, answer);
                }
                Err(Faults(faults)) => {
                    assert_eq!(faults[0].reason, Reason::JsonTooDeep);
                    assert!(levels > 29, "{levels} levels of {open} are refused");
                }
            }
        }
    }
}

#[test]
fn text_that_readers_disagree_about_is_refused() {
    let deep = format!("{}{}", "[".repeat(65), "]".repeat(65));
    let table: [(&[u8], Reason); 32] = [
        (b"", Reason::MalformedJson),
        (b"{", Reason::MalformedJson),
        (b"{\"a\":1", Reason::MalformedJson),
        (b"{\"a\" 1}", Reason::MalformedJson),
        (b"{a:1}", Reason::MalformedJson),
        (b"{\"a\":1,}", Reason::MalformedJson),
        (b"[1,]", Reason::MalformedJson),
        (b"[1 2]", Reason::MalformedJson),
        (b"1 2", Reason::MalformedJson),
        (b"\xef\xbb\xbf{}", Reason::MalformedJson),
        (b"'a'", Reason::MalformedJson),
        (b"\"a", Reason::MalformedJson),
        (b"\"\\x\"", Reason::MalformedJson),
        (b"\"\\u12\"", Reason::MalformedJson),
        (b"\"\\u+123\"", Reason::MalformedJson),
        (b"\"\x01\"", Reason::MalformedJson),
        (b"01", Reason::MalformedJson),
        (b"-", Reason::MalformedJson),
        (b"1.", Reason::MalformedJson),
        (b"1e", Reason::MalformedJson),
        (b"tru", Reason::MalformedJson),
        (b"NaN", Reason::InvalidNumber),
        (b"-Infinity", Reason::InvalidNumber),
        (b"1e400", Reason::InvalidNumber),
        (b"18446744073709551616", Reason::InvalidNumber),
        (b"{\"a\":1,\"\\u0061\":2}", Reason::DuplicateKey),
        (b"\"\\u0000\"", Reason::InvalidText),
        (b"\"\0\"", Reason::InvalidText),
        (b"\"\\ud800\"", Reason::InvalidText),
        (b"\"\\ud800\\u0041\"", Reason::InvalidText),
        (b"\"\xff\"", Reason::InvalidText),
        (deep.as_bytes(), Reason::JsonTooDeep),
    ];
    for (text, reason) in table {
        let Faults(faults) = parse(text).unwrap_err();
        assert_eq!(faults[0].reason, reason, "{}", String::from_utf8_lossy(text));
    }
    let Faults(faults) = parse(b"{\n  \"a\": tru\n}").unwrap_err();
    assert!(faults[0].message.contains("line 2, column 8"), "{}", faults[0].message);
}

proptest! {
    #[test]
    fn parses_what_the_common_parser_writes(value in arbitrary_json()) {
        prop_assert_eq!(&parse(value.to_string().as_bytes()).unwrap(), &value);
        prop_assert_eq!(parse(serde_json::to_string_pretty(&value).unwrap().as_bytes()).unwrap(), value);
    }

    #[test]
    fn accepts_no_text_that_the_common_parser_refuses(text in "[\\[\\]{}:,\"\\\\a0-9.eE+u \\-]{0,24}") {
        if let Ok(value) = parse(text.as_bytes()) {
            prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        }
    }

    #[test]
    fn json_content_survives_the_wire(value in arbitrary_json()) {
        let bytes = encode(&message(STORE).unwrap(), &json!({"content": value})).unwrap();
        let back = decode(&message(STORE).unwrap(), &bytes, Style::Brief).unwrap();
        prop_assert_eq!(back["content"].to_string(), value.to_string());
    }

    #[test]
    fn no_bytes_make_the_reader_fall_over(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in [DEFINITION, TASK, STORE, INSTANCE] {
            let _ = decode(&message(name).unwrap(), &bytes, Style::Full);
        }
    }
}

fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-9_007_199_254_740_991_i64..9_007_199_254_740_991).prop_map(Value::from),
        "[^\\x00]{0,12}".prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map("[^\\x00]{0,6}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
