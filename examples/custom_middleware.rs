//! A third-party middleware in one file: the whole gateway, and `type = "greet"`, which stamps a header on every answer.
//!
//! ```sh
//! cargo run --bin custom_middleware -- run examples/custom_middleware.toml
//! curl -i http://127.0.0.1:8080/
//! ```
//!
//! It is checked like any other: misspell `text` in the file, and see what `check` says.

use portcullis_middleware::prelude::*;

/// Says hello in a response header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Greet {
    /// What to say.
    text: HeaderText,
}

impl Plugin for Greet {
    const NAME: &'static str = "greet";
    const EXAMPLE: &'static str = r#"text = "good day""#;

    fn build(self, _: &Context) -> Result<RouteLayer, BuildError> {
        Ok(RouteLayer::around(self))
    }
}

impl Around for Greet {
    async fn handle(&self, request: Request, next: Next) -> Response {
        let mut response = next.run(request).await;
        response.headers_mut().insert("x-greeting", self.text.clone().into());
        response
    }
}

fn main() -> std::process::ExitCode {
    portcullis::main(portcullis::plugins().middleware::<Greet>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_middleware::testing;

    #[test]
    fn it_keeps_the_promises_of_a_plugin() {
        testing::conformance::<Greet>();
    }

    #[tokio::test]
    async fn every_answer_carries_the_greeting() {
        let app = testing::chain::<Greet>(r#"text = "hi""#);
        app.get("/").await.expect_status(200).expect_header("x-greeting", "hi");
    }

    #[test]
    fn a_typing_mistake_is_found_at_its_place() {
        let faults = testing::build::<Greet>(r#"texd = "hi""#).err().expect("an unknown key is refused");
        assert!(faults.contains("did you mean `text`?") && faults.contains("greet.toml:1:1"), "{faults}");
    }
}
