//! The ValidatingAdmissionPolicy on the fast-path annotation: its CEL is read and evaluated by a CEL interpreter,
//! and never refuses what netplane itself takes. `findAll` and `join` are Kubernetes' additions to CEL.

use super::manifests::{documents, examples, top};
use cel::extractors::This;
use cel::{Context, Program, Value as Cel};
use netplane::nad::dir;
use netplane::nad::fast_path::{FAST_PATH_ANNOTATION, FastPath};
use serde_json::{Value, json};
use std::sync::Arc;

struct Policy(Value);

impl Policy {
    fn load() -> Self {
        let mut objects = documents(&top("deploy/policy/fast-path.yaml"));
        assert_eq!(objects[1]["spec"]["policyName"], objects[0]["metadata"]["name"]);
        Self(objects.remove(0)["spec"].take())
    }

    fn list(&self, key: &str) -> impl Iterator<Item = &Value> {
        self.0[key].as_array().expect("a list").iter()
    }

    /// The messages of the rules that refuse an object, as the API server would give them; `None` where the policy
    /// does not concern it.
    fn refuses(&self, object: &Value) -> Option<Vec<String>> {
        let mut context = Context::default();
        let find_all = |This(text): This<Arc<String>>, pattern: Arc<String>| -> Cel {
            let pattern = regex::Regex::new(&pattern).expect("a pattern of RE2");
            pattern.find_iter(&text).map(|it| it.as_str().to_owned()).collect::<Vec<_>>().into()
        };
        context.add_function("findAll", find_all).expect("a new one");
        let join = |This(list): This<Arc<Vec<Cel>>>, between: Arc<String>| -> Arc<String> {
            let texts = list.iter().map(|it| match it {
                Cel::String(text) => (**text).clone(),
                other => panic!("{other:?} is no string"),
            });
            Arc::new(texts.collect::<Vec<_>>().join(&between))
        };
        context.add_function("join", join).expect("a new one");
        context.add_variable("object", object).expect("a variable");
        let evaluate = |context: &Context<'_, '_>, expression: &Value| {
            let text = expression.as_str().expect("an expression");
            let program = Program::compile(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            program.execute(context).unwrap_or_else(|error| panic!("{error}: {text}"))
        };
        let concerns = |it: &Value| evaluate(&context, &it["expression"]) == Cel::Bool(true);
        if !self.list("matchConditions").all(concerns) {
            return None;
        }
        let mut variables = std::collections::HashMap::new();
        for variable in self.list("variables") {
            let value = evaluate(&context, &variable["expression"]);
            variables.insert(variable["name"].as_str().expect("a name").to_owned(), value);
            context.add_variable_from_value("variables", variables.clone());
        }
        let mut messages = Vec::new();
        for rule in self.list("validations") {
            match evaluate(&context, &rule["expression"]) {
                Cel::Bool(true) => {}
                Cel::Bool(false) => {
                    let message = match rule.get("messageExpression") {
                        Some(expression) => evaluate(&context, expression),
                        None => {
                            Cel::String(Arc::new(rule["message"].as_str().expect("a message").to_owned()))
                        }
                    };
                    let Cel::String(message) = message else { panic!("{message:?} is no message") };
                    messages.push((*message).clone());
                }
                other => panic!("{other:?} is no answer"),
            }
        }
        Some(messages)
    }
}

fn annotated(text: &str) -> Value {
    json!({ "metadata": { "name": "n", "annotations": { FAST_PATH_ANNOTATION: text } }, "spec": {} })
}

#[test]
fn what_is_right_is_let_in() {
    let policy = Policy::load();
    assert_eq!(policy.refuses(&json!({ "metadata": { "name": "plain" } })), None);
    assert_eq!(policy.refuses(&json!({ "metadata": { "annotations": { "a": "b" } } })), None);
    let nads = dir::load(&top("examples/nads")).expect("NADs").nads;
    let texts = nads.into_iter().filter_map(|(_, it)| it.annotations.get(FAST_PATH_ANNOTATION).cloned());
    let of_cluster = examples()
        .into_iter()
        .filter_map(|it| it["metadata"]["annotations"][FAST_PATH_ANNOTATION].as_str().map(str::to_owned));
    let further = [
        r#"{"role":"access","gtpu":{"echoInterval":60,"echoTimeout":20,"echoRequests":15}}"#,
        r#"{"role":"access","gtpu":{"echoInterval":3599,"echoTimeout":1,"echoRequests":null}}"#,
        r#"{"role":"access","xdp":"generic","mtu":9000,"gtpu":{"peers":[],"echo":false,"unknownTeid":"errorIndication","sourcePort":"fixed","udpChecksum":"zero","dscp":63}}"#,
        r#"{ "role" : "access", "gtpu": { "dscp": "copy" }, "sessions": [
            { "name": "a:b \"role\": x", "pod": "core/upf-0", "ue": ["10.60.0.1", "2001:db8::/64"],
              "uplink": { "teid": 1, "relay": { "network": "core/n9", "peer": "10.9.0.1", "teid": "4294967295" } } },
            { "name": "", "uplink": { "teid": "0xFFFFFFFF", "to": "core/n6" }, "ue": ["10.60.0.2"],
              "downlink": { "peer": "10.30.0.10", "teid": "0x0001", "qfi": 0 } } ] }"#,
        r#"{"uePools":["::/0","10.60.0.0/16"],"role":"data","mtu":576,"xdp":null}"#,
    ];
    let mut seen = 0;
    for text in texts.chain(of_cluster).chain(further.map(str::to_owned)) {
        seen += 1;
        FastPath::parse(&text).unwrap_or_else(|error| panic!("{error:?}: {text}"));
        assert_eq!(policy.refuses(&annotated(&text)), Some(Vec::new()), "{text}");
    }
    assert!(seen >= 7, "{seen}");
}

#[test]
fn what_is_wrong_is_refused_with_its_name() {
    let policy = Policy::load();
    for (text, wanted) in [
        ("[]", "should be a JSON object"),
        ("role: access", "should be a JSON object"),
        ("{}", "\"role\" is missing"),
        (r#"{"role":"acess"}"#, r#"cannot be: "role":"acess""#),
        (r#"{"role":"access","rolle":1}"#, r#"not known: "rolle":"#),
        (r#"{"role":"access","xdp":"fast"}"#, r#"cannot be: "xdp":"fast""#),
        (r#"{"role":"access","mtu":"1400"}"#, r#"cannot be: "mtu":"1400""#),
        (r#"{"role":"access","gtpu":{"dscp":64}}"#, r#"cannot be: "dscp":64"#),
        (r#"{"role":"access","gtpu":{"echo":"yes"}}"#, r#"cannot be: "echo":"yes""#),
        (r#"{"role":"access","gtpu":{"echoInterval":59}}"#, r#"cannot be: "echoInterval":59"#),
        (r#"{"role":"access","gtpu":{"echoInterval":3601}}"#, r#"cannot be: "echoInterval":3601"#),
        (
            r#"{"role":"access","gtpu":{"echoInterval":60,"echoRequests":16}}"#,
            r#"cannot be: "echoRequests":16"#,
        ),
        (
            r#"{"role":"access","gtpu":{"echoInterval":60,"echoTimeout":21}}"#,
            r#"cannot be: "echoTimeout":21"#,
        ),
        (r#"{"role":"access","gtpu":{"unknownTeid":"reject"}}"#, r#"cannot be: "unknownTeid":"reject""#),
        (r#"{"role":"data"}"#, r#""uePools" is missing"#),
        (r#"{"role":"data","uePools":[]}"#, r#""uePools" is missing"#),
        (r#"{"role":"data","uePools":["10.60.0.0/16"],"gtpu":{}}"#, "belong to a network of role access"),
        (
            r#"{"role":"access","sessions":[{"name":"a","ue":["10.60.0.1"],"uplink":{"teid":"0x0","to":"core/n6"}}]}"#,
            r#"cannot be: "teid":"0x0""#,
        ),
        (
            r#"{"role":"access","sessions":[{"name":"a","ue":["10.60.0.1"],"uplink":{"teid":"1001h","to":"core/n6"}}]}"#,
            r#"cannot be: "teid":"1001h""#,
        ),
        (
            r#"{"role":"access","sessions":[{"name":"a","ue":["10.60.0.1"],"uplink":{"teid":7,"to":"core/n6"},"downlink":{"peer":"10.30.0.1","teid":8,"qfi":64}}]}"#,
            r#"cannot be: "qfi":64"#,
        ),
    ] {
        FastPath::parse(text).expect_err("netplane refuses it as well");
        let said = policy.refuses(&annotated(text)).expect("it concerns the policy");
        assert!(said.iter().any(|it| it.contains(wanted)), "{text}: {said:?}");
        assert!(said.iter().all(|it| it.starts_with("netplane.dev/fast-path: ")), "{said:?}");
    }
}
