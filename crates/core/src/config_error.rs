//! What is wrong with a configuration file, told without what stands in it: a mistyped key may have a secret beside it.

/// A parser's message with the line that it is about, on one line. `at` is where in `text` that begins, in bytes. Keys
/// are named; values, which serde repeats, are not.
pub fn config_error(message: &str, text: &str, at: Option<usize>) -> String {
    let line = at.and_then(|at| text.get(..at)).map(|before| before.matches('\n').count() + 1);
    let place = line.map_or_else(String::new, |line| format!("line {line}: "));
    format!("{place}{}", without_value(message).replace('\n', " "))
}

/// serde's "invalid type: string "x", expected a boolean" without the x.
fn without_value(message: &str) -> String {
    for what in ["invalid type", "invalid value", "unknown variant"] {
        let Some((before, rest)) = message.split_once(what) else { continue };
        let Some((given, expected)) = rest.rsplit_once(", expected ") else { continue };
        let kind = given.split(['"', '`']).next().unwrap_or_default().trim_end();
        return format!("{before}{what}{kind}, expected {expected}");
    }
    message.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_and_values_are_not() {
        for (message, told) in [
            ("unknown field `pasword`, expected `a` or `b`", "unknown field `pasword`, expected `a` or `b`"),
            ("invalid type: string \"hunter2\", expected u32", "invalid type: string, expected u32"),
            (
                "limits: invalid type: integer `2`, expected a string",
                "limits: invalid type: integer, expected a string",
            ),
            ("invalid value: string \"hunter2, expected \\\"\", expected f", "invalid value: string, expected f"),
            ("unknown variant `hunter2`, expected `a` or `b`", "unknown variant, expected `a` or `b`"),
            ("key with no value,\nexpected `=`", "key with no value, expected `=`"),
        ] {
            assert_eq!(config_error(message, "", None), told);
        }
    }

    #[test]
    fn the_line_is_told_where_it_is_known() {
        let text = "[a]\nb = 1\nc = 2\n";
        assert_eq!(config_error("duplicate key", text, text.find("c = ")), "line 3: duplicate key");
        assert_eq!(config_error("duplicate key", text, Some(1000)), "duplicate key");
    }
}
