use std::{collections::BTreeMap, sync::Arc};

use proptest::{collection::vec, prelude::*};

use super::{
    parse::{DEEPEST, LONGEST, LONGEST_KEY, MOST_TOKENS},
    *,
};

/// Labels, and whether they are of something in a namespace.
struct Item(BTreeMap<&'static str, &'static str>, bool);

impl Subject for Item {
    fn label(&self, key: &str) -> Option<&str> {
        self.0.get(key).copied()
    }

    fn in_namespace(&self) -> bool {
        self.1
    }
}

fn read(text: &str) -> Selector {
    text.parse().unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn the_whole_grammar_is_read() {
    for (text, canonical) in [
        ("", "all()"),
        (" \t", "all()"),
        ("all()", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("has(a)", "has(a)"),
        ("has( a/b.c-d_e )", "has(a/b.c-d_e)"),
        ("a=='b'", "a == 'b'"),
        ("a == \"b\"", "a == 'b'"),
        ("a == \"it's\"", "a == \"it's\""),
        ("a == ''", "a == ''"),
        ("a != 'b'", "a != 'b'"),
        ("a in {'c', \"b\",'b'}", "a in {'b', 'c'}"),
        ("a in {}", "a in {}"),
        ("a in {'b',}", "a in {'b'}"),
        ("a not in {'b'}", "a not in {'b'}"),
        ("a notin{'b'}", "a not in {'b'}"),
        ("a contains 'b'", "a contains 'b'"),
        ("a starts with 'b'", "a starts with 'b'"),
        ("a ends  with 'b'", "a ends with 'b'"),
        ("a contains\"b\"", "a contains 'b'"),
        ("a startswith 'b'", "a starts with 'b'"),
        ("a endswith'b'", "a ends with 'b'"),
        ("a == '\"'", "a == '\"'"),
        ("a in {\"'\", '\"', 'b'}", "a in {'\"', \"'\", 'b'}"),
        ("a == ' b&& '", "a == ' b&& '"),
        ("a == 'ä→'", "a == 'ä→'"),
        ("! has(a)", "!has(a)"),
        ("!!has(a)", "has(a)"),
        ("!!!(a == 'b')", "!a == 'b'"),
        ("! !! has(a)", "!has(a)"),
        ("!(!(has(a)))", "has(a)"),
        ("!a == 'b' && c != 'd'", "!a == 'b' && c != 'd'"),
        (" \t( !has(a)\t||\tb  in { 'c'\t, } ) ", "!has(a) || b in {'c'}"),
        ("a == 'b' && has(c) || has(d)", "a == 'b' && has(c) || has(d)"),
        ("a == 'b' && (has(c) || has(d))", "a == 'b' && (has(c) || has(d))"),
        ("!(has(a) && has(b))", "!(has(a) && has(b))"),
        ("((has(a)))", "has(a)"),
        ("has(a)&&has(b)&&has(c)", "has(a) && has(b) && has(c)"),
        // Words of the language are labels where a label is expected.
        ("contains contains 'in'", "contains contains 'in'"),
        ("in in {'in'}", "in in {'in'}"),
        ("all == 'all'", "all == 'all'"),
        ("has == 'has'", "has == 'has'"),
        ("not not in {'a'}", "not not in {'a'}"),
        ("global != 'all()'", "global != 'all()'"),
        ("has(has)", "has(has)"),
        ("startswith starts with 'a'", "startswith starts with 'a'"),
        ("ends ends with 'a'", "ends ends with 'a'"),
        ("notin notin {}", "notin not in {}"),
        ("1/2.3-4_5 == 'a'", "1/2.3-4_5 == 'a'"),
    ] {
        let selector = read(text);
        assert_eq!(selector.to_string(), canonical, "{text:?}");
        assert_eq!(read(canonical), selector, "{text:?}");
    }
}

#[test]
fn what_is_no_selector_is_refused_with_the_place() {
    let operand = "expected a label, has(), all(), global() or an expression in parentheses, found";
    for (text, column, reason) in [
        ("a", 2, "expected an operator, found the end"),
        ("a  ", 4, "expected an operator, found the end"),
        ("a 'b'", 3, "expected an operator, found a string"),
        ("a b", 3, "\"b\" is not an operator"),
        ("a index {'b'}", 3, "\"index\" is not an operator"),
        ("a = 'b'", 3, "\"=\" is not an operator, \"==\" is"),
        ("a == ", 6, "expected a string in quotes, found the end"),
        ("a == b", 6, "expected a string in quotes, found \"b\""),
        ("a == 'b", 6, "the string does not end"),
        ("a != \"b'", 6, "the string does not end"),
        ("a == 'ä' ö", 10, "expected '&&' or '||', found 'ö'"),
        ("a contains {'b'}", 12, "expected a string in quotes, found '{'"),
        ("a in 'b'", 6, "expected '{', found a string"),
        ("a in {'b' 'c'}", 11, "expected ',' or '}', found a string"),
        ("a in {'b'", 10, "expected ',' or '}', found the end"),
        ("a in {,}", 7, "expected a string in quotes, found ','"),
        ("a in {'b',,}", 11, "expected a string in quotes, found ','"),
        ("a starts 'b'", 10, "expected 'with', found a string"),
        ("a ends in 'b'", 8, "expected 'with', found \"in\""),
        ("a not {'b'}", 7, "expected 'in', found '{'"),
        ("has()", 5, "expected the key of a label, found ')'"),
        ("has('a')", 5, "expected the key of a label, found a string"),
        ("has(a", 6, "expected ')', found the end"),
        ("has (a)", 5, "the '(' of a function stands right behind its name"),
        ("all(a)", 5, "expected ')', found \"a\""),
        ("any()", 1, "\"any\" is not a function"),
        ("has(a) has(b)", 8, "expected '&&' or '||', found \"has\""),
        ("has(a) && ", 11, &format!("{operand} the end")),
        ("has(a) & has(b)", 8, "expected '&&' or '||', found '&'"),
        ("(has(a)", 8, "expected '&&', '||' or ')', found the end"),
        ("(has(a) | has(b))", 9, "expected '&&', '||' or ')', found '|'"),
        ("has(a))", 7, "expected '&&' or '||', found ')'"),
        ("()", 2, &format!("{operand} ')'")),
        ("!", 2, &format!("{operand} the end")),
        ("'a' == 'b'", 1, &format!("{operand} a string")),
        ("ä == 'b'", 1, &format!("{operand} 'ä'")),
        ("all()\n", 6, "expected '&&' or '||', found a line break: a selector is one line"),
        ("has(a) &&\nhas(b)", 10, &format!("{operand} a line break: a selector is one line")),
        ("a == 'b\n'", 6, "there is a control character in the string, and in no label"),
        ("\u{a0}all()", 1, &format!("{operand} '\\u{{a0}}'")),
    ] {
        let error = SelectorError { column, reason: reason.to_owned() };
        assert_eq!(text.parse::<Selector>(), Err(error), "{text:?}");
    }
    let error = "a b".parse::<Selector>().unwrap_err();
    assert_eq!(error.to_string(), "column 3: \"b\" is not an operator");
}

fn refusal(text: &str) -> (usize, String) {
    let SelectorError { column, reason } = text.parse::<Selector>().unwrap_err();
    (column, reason)
}

#[test]
fn what_a_selector_may_have_has_an_end() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "!(".repeat(depth), ")".repeat(depth));
    let deepest = read(&nested(DEEPEST, "has(a) || has(b) && !has(c)"));
    assert_eq!(read(&deepest.to_string()), deepest);
    let deeper = nested(DEEPEST + 1, "has(a)");
    assert_eq!(refusal(&deeper), (130, "parentheses are nested deeper than 64".to_owned()));
    assert_eq!(refusal(&"(".repeat(1 << 20)).0, 65);

    let key = "k".repeat(LONGEST_KEY);
    assert_eq!(read(&format!("has({key})")), Selector::Has(key.as_str().into()));
    assert_eq!(
        refusal(&format!("has({key}k)")),
        (5, "the key of a label is longer than 512 bytes".to_owned())
    );

    // Four tokens for has(a), one for each negation.
    let negated = |times: usize| format!("{}has(a)", "!".repeat(times));
    assert_eq!(read(&negated(MOST_TOKENS - 4)), read("has(a)"));
    assert_eq!(refusal(&negated(MOST_TOKENS - 3)), (10_003, "there are more than 10000 tokens".to_owned()));

    let long = |length: usize| format!(" \t a == '{}' ", "v".repeat(length - "a==''".len()));
    read(&long(LONGEST));
    let reason = "there are more than 65536 bytes, even without blanks".to_owned();
    assert_eq!(refusal(&long(LONGEST + 1)), (9, reason));
    // Shown it has blanks, and more bytes than there may be without.
    let tight = vec![format!("k=='{}'", "v".repeat(21)); 2_300].join("&&");
    let shown = read(&tight).to_string();
    assert!(tight.len() < LONGEST && shown.len() > LONGEST);
    assert_eq!(read(&shown), read(&tight));
}

#[test]
fn negations_select_what_has_no_such_label() {
    let none = Item(BTreeMap::new(), true);
    let some = Item(BTreeMap::from([("a", "xyz")]), true);
    for (text, of_none, of_some) in [
        ("all()", true, true),
        ("global()", false, false),
        ("a == 'xyz'", false, true),
        ("a != 'xyz'", true, false),
        ("a != 'other'", true, true),
        ("a in {'abc', 'xyz'}", false, true),
        ("a in {}", false, false),
        ("a not in {'abc', 'xyz'}", true, false),
        ("a not in {}", true, true),
        ("a contains 'y'", false, true),
        ("a contains ''", false, true),
        ("a starts with 'x'", false, true),
        ("a ends with 'x'", false, false),
        ("!a contains 'y'", true, false),
        ("has(a) && a != 'xyz'", false, false),
        ("!has(a) || a == 'xyz'", true, true),
    ] {
        let selector = read(text);
        assert_eq!((selector.matches(&none), selector.matches(&some)), (of_none, of_some), "{text}");
    }
}

#[test]
fn of_namespaces_all_and_global_are_opposites() {
    let (global, within) = (Item(BTreeMap::new(), false), Item(BTreeMap::new(), true));
    for (text, of_global, of_within) in [
        ("all()", false, true),
        ("global()", true, false),
        ("!has(a)", true, true),
        ("all() || global()", true, true),
    ] {
        let selector = read(text);
        assert_eq!(
            (selector.matches_namespace(&global), selector.matches_namespace(&within)),
            (of_global, of_within),
            "{text}"
        );
    }
}

#[test]
fn a_label_that_is_needed_is_known() {
    for (text, needed) in [
        ("a == 'b'", Some(("a", "b"))),
        ("a in {'b'}", Some(("a", "b"))),
        ("a in {'b', 'c'}", None),
        ("has(a) && b == 'c' && d == 'e'", Some(("b", "c"))),
        ("a == 'b' || a == 'b'", None),
        ("!a != 'b'", None),
        ("all()", None),
    ] {
        assert_eq!(read(text).needs(), needed, "{text}");
    }
}

const KEYS: [&str; 2] = ["a", "b"];
const VALUES: [Option<&str>; 5] = [None, Some(""), Some("x"), Some("xy"), Some("y")];

/// Every item that there is, with a number of its own: two labels, each of five values, with a namespace and without.
fn universe() -> impl Iterator<Item = (u32, Item)> {
    (0..50_u32).map(|number| {
        let value = |at: u32| VALUES[at as usize % VALUES.len()];
        let labels = KEYS.into_iter().zip([value(number / 2), value(number / 10)]);
        (number, Item(labels.filter_map(|(key, value)| Some((key, value?))).collect(), number % 2 == 0))
    })
}

/// The items, a bit for each, of which something is so.
fn those(test: impl Fn(&Item) -> bool) -> u64 {
    universe().filter(|(_, item)| test(item)).fold(0, |set, (number, _)| set | 1 << number)
}

/// The items that a selector selects, by arithmetic of sets; `all` and `global` are the sets of those names.
fn model(selector: &Selector, all: u64, global: u64) -> u64 {
    let everything = those(|_| true);
    let with =
        |key: &str, test: &dyn Fn(&str) -> bool| those(|item| item.0.get(key).is_some_and(|it| test(it)));
    match selector {
        Selector::All => all,
        Selector::Global => global,
        Selector::Has(key) => with(key, &|_| true),
        Selector::Equals(key, value) => with(key, &|it| *it == **value),
        Selector::NotEquals(key, value) => everything & !with(key, &|it| *it == **value),
        Selector::In(key, values) => {
            values.iter().fold(0, |set, value| set | with(key, &|it| *it == **value))
        }
        Selector::NotIn(key, values) => {
            values.iter().fold(everything, |set, value| set & !with(key, &|it| *it == **value))
        }
        Selector::Contains(key, text) => with(key, &|it| it.split(&**text).count() > 1),
        Selector::StartsWith(key, text) => with(key, &|it| it.strip_prefix(&**text).is_some()),
        Selector::EndsWith(key, text) => with(key, &|it| it.strip_suffix(&**text).is_some()),
        Selector::Not(inner) => everything & !model(inner, all, global),
        Selector::And(operands) => operands.iter().fold(everything, |set, it| set & model(it, all, global)),
        Selector::Or(operands) => operands.iter().fold(0, |set, it| set | model(it, all, global)),
    }
}

fn key() -> impl Strategy<Value = Arc<str>> + Clone {
    prop_oneof!["[a-zA-Z0-9_./-]{1,8}", Just("in".to_owned()), Just("all".to_owned())].prop_map(Arc::from)
}

fn value() -> impl Strategy<Value = Arc<str>> + Clone {
    prop_oneof!["[^'\"\\p{Cc}]{0,6}", "[^'\\p{Cc}]{0,6}", "[^\"\\p{Cc}]{0,6}"].prop_map(Arc::from)
}

fn selector(
    key: impl Strategy<Value = Arc<str>> + Clone + 'static,
    value: impl Strategy<Value = Arc<str>> + Clone + 'static,
) -> impl Strategy<Value = Selector> {
    let values = vec(value.clone(), 0..4).prop_map(|mut values| {
        values.sort_unstable();
        values.dedup();
        Arc::from(values)
    });
    let (key, value, values) = (move || key.clone(), move || value.clone(), move || values.clone());
    let leaf = prop_oneof![
        Just(Selector::All),
        Just(Selector::Global),
        key().prop_map(Selector::Has),
        (key(), value()).prop_map(|(key, value)| Selector::Equals(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::NotEquals(key, value)),
        (key(), values()).prop_map(|(key, values)| Selector::In(key, values)),
        (key(), values()).prop_map(|(key, values)| Selector::NotIn(key, values)),
        (key(), value()).prop_map(|(key, value)| Selector::Contains(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::StartsWith(key, value)),
        (key(), value()).prop_map(|(key, value)| Selector::EndsWith(key, value)),
    ];
    leaf.prop_recursive(5, 32, 4, |inner| {
        prop_oneof![
            inner.clone().prop_filter_map("two negations are none", |inner| match inner {
                Selector::Not(_) => None,
                inner => Some(Selector::Not(Box::new(inner))),
            }),
            vec(inner.clone(), 2..4).prop_map(Selector::And),
            vec(inner, 2..4).prop_map(Selector::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_selected_is_what_sets_say(selector in selector(
        prop::sample::select(&["a", "b", "c"][..]).prop_map(Arc::from),
        prop::sample::select(&["", "x", "xy", "y", "z"][..]).prop_map(Arc::from),
    )) {
        let everything = those(|_| true);
        let within = those(|item| item.1);
        let selected = those(|item| selector.matches(item));
        prop_assert_eq!(selected, model(&selector, everything, 0));
        let of_namespaces = those(|item| selector.matches_namespace(item));
        prop_assert_eq!(of_namespaces, model(&selector, within, everything & !within));
        if let Some((key, value)) = selector.needs() {
            prop_assert_eq!((selected | of_namespaces) & !those(|item| item.label(key) == Some(value)), 0);
        }
    }

    #[test]
    fn a_selector_is_read_as_it_is_shown(selector in selector(key(), value())) {
        let text = selector.to_string();
        prop_assert_eq!(text.parse::<Selector>(), Ok(selector), "{}", text);
    }

    #[test]
    fn no_text_is_too_much(text in "\\PC{0,64}") {
        if let Err(error) = text.parse::<Selector>() {
            prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error);
        }
    }

    #[test]
    fn what_is_shown_may_be_cut_anywhere(
        selector in selector(key(), value()),
        at in any::<prop::sample::Index>(),
        put in prop::sample::select(&["", "!", "(", ")", " ", "'", "\"", "&&", "||", "ä", "!(", "in", ","][..]),
        whole in any::<bool>(),
    ) {
        let text = selector.to_string().chars().collect::<Vec<_>>();
        let (before, behind) = text.split_at(at.index(text.len() + 1));
        let behind = if whole { behind } else { behind.get(1..).unwrap_or_default() };
        let text = format!("{}{put}{}", String::from_iter(before), String::from_iter(behind));
        match text.parse::<Selector>() {
            Ok(selector) => prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error),
        }
    }

    #[test]
    fn no_words_are_too_much(words in vec(prop_oneof![
        Just("a"), Just("=="), Just("!="), Just("'b'"), Just("\""), Just("in"), Just("not"), Just("{"), Just("}"),
        Just(","), Just("&&"), Just("||"), Just("!"), Just("("), Just(")"), Just("has("), Just("all()"),
        Just("global()"), Just("starts"), Just("with"), Just("contains"), Just(" "),
    ], 0..24)) {
        let text = words.concat();
        match text.parse::<Selector>() {
            Ok(selector) => prop_assert_eq!(selector.to_string().parse::<Selector>(), Ok(selector)),
            Err(error) => prop_assert!((1..=text.chars().count() + 1).contains(&error.column), "{}", error),
        }
    }
}

#[test]
fn whatever_a_selector_says_is_read_as_it_is_shown_or_refused_in_a_sentence() {
    let holds = |input: &[u8]| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Selector>() {
            Ok(selector) => {
                let shown = selector.to_string();
                ::fuzz::one_sentence(&shown)?;
                ::fuzz::same("a selector, shown and read", &shown.parse::<Selector>(), &Ok(selector))
            }
            Err(error) => {
                if error.column > text.chars().count() + 1 {
                    return Err(format!("column {} is beyond the end", error.column));
                }
                ::fuzz::one_sentence(&error.to_string())
            }
        }
    };
    ::fuzz::Target::new("selectors", ::fuzz::Form::Text).holds(holds);
}
