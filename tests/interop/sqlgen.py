"""Expressions and properties for tests/interop/sql_test.py: every operator over properties of awkward values, nested and bare,
and texts that are nearly expressions. The same seed gives the same cases."""
import random

NAMES = ["a", "b", "c", "i", "d", "s", "t", "x_1", "$p", "_u", "Region", "missing", "TAGS", "KEYS", "nul", "A"]
VALUES = ["7", "5", "10", "-5", "+5", "0", "-0", "0.0", "-0.0", "00", "007", "10.5", " 5", "5 ", " 5.0 ", "\t3", "2147483647", "2147483648", "-2147483648",
          "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "99999999999", "1e3", "1E400", "4.9E-324", "1e-400",
          "NaN", "Infinity", "-Infinity", "+Infinity", "infinity", "nan", "inf", "0x10", "0x1p3", "0x.8p1", "0X1P-2f", "5f", "5d", "5.5D", "5L", "5l", ".5", "5.", ".",
          "+", "-", "--5", "1_000", "1,5", "true", "TRUE", "True", "false", "FALSE", "yes", "1", "abc", "ABC", "abcdef", "cde", "'", "it's", "''", "é", "日本語",
          "日本", "😀", "x😀y", "a b", "%", "9007199254740993", "9007199254740992.0", "0.1", "0.30000000000000004", "1.7976931348623157E308", "1.7976931348623159E308",
          "null", "NULL", "5e", "e5", "5e+", "1" * 40, "0." + "0" * 80 + "1", "٣", "１２"]
DECIMALS = ["0", "1", "5", "7", "10", "007", "0L", "5L", "5l", "2147483647", "2147483648", "2147483648L", "9223372036854775807", "9223372036854775808",
            "99999999999", "9007199254740993", "123456789012345678901234567890", "5LL", "1000"]
FLOATS = ["0.0", "0.5", ".5", "5.", "5.0", "7.0", "10.5", "1E3", "1e3", "1e-3", "1.e2", "1E400", "4.9E-324", "1e-400", "1.7976931348623157E308", "0.1", "1e", "1e+",
          "5.0f", "5.5.5", "9007199254740993.0", "0.0e5", "00.5", "01e2"]
STRINGS = ["'abc'", "'ABC'", "'b'", "''", "'7'", "'5'", "'true'", "'TRUE'", "'it''s'", "''''", "'é'", "'日本'", "'日'", "'😀'", "'a b'", "' '", "'10.5'", "'%'",
           "'cde'", "'-- no'", "'/* no */'", "'\n'", "'\"'", "'1e3'", "'0x1p3'"]
BROKEN = ["", " ", "(", ")", "()", "a", "5", "'x'", "TRUE", "FALSE", "NULL", "NOT", "-", "+", "a =", "= a", "a = ", "a > 5 garbage", "a > 5 )", "(a > 5", "a > 5 AND",
          "a > 5 OR", "a > 5 AND (b = 7", "a > 5 AND (b = 7 OR)", "a == 7", "a != 7", "a.b = 1", "a-b = 1", "a + 1 > 5", "s LIKE 'a%'", "a = 007", "a BETWEEN 1", "a BETWEEN 1 AND",
          "a BETWEEN 10 AND 1", "a BETWEEN 1 AND 10", "a BETWEEN 1 AND 2.5", "a BETWEEN 2.5 AND 1", "a BETWEEN - 5 AND 10", "a BETWEEN 10 AND -5", "a NOT BETWEEN 10 AND 1",
          "a BETWEEN 'a' AND 'b'", "a BETWEEN NULL AND 5", "a BETWEEN TRUE AND FALSE", "a BETWEEN 0L AND 5", "a BETWEEN 1 AND 10 AND b = 5", "a BETWEEN b AND c",
          "-(a) BETWEEN 1 AND 5", "-(-(i BETWEEN 1 AND 9) BETWEEN 1 AND 2) BETWEEN 1 AND 2", "NOT a BETWEEN 1 AND 5", "5 BETWEEN 1 AND a", "a NOT 5", "a NOT", "a NOT NULL",
          "a IS", "a IS NOT", "a IS NULL NULL", "a IS 5", "a IS NOT NOT NULL", "a IN", "a IN ()", "a IN ('x'", "a IN ('x',)", "a IN (7)", "5 IN ('5')", "(a) IN ('7')",
          "+a IN ('7')", "a IN (a)", "a IN ('7') IN ('7')", "a CONTAINS b", "a CONTAINS 7", "a CONTAINS ('b')", "'abc' CONTAINS 'b'", "5 CONTAINS '5'", "NOT (a CONTAINS 'x')",
          "a NOT CONTAINS ''", "NULL IS NULL", "NULL = NULL", "a = NULL", "NULL = a", "a <> NULL", "TRUE = 5", "5 = TRUE", "TRUE = TRUE", "TRUE = a", "t = TRUE", "TRUE = 'x'",
          "TRUE > a", "a > TRUE", "a > 'x'", "'x' > a", "a > NULL", "NOT a = 5", "NOT a > 5", "NOT (a > 5)", "NOT NOT t", "NOT 5", "NOT 'x'", "NOT NULL", "NOT TRUE", "-a = 5", "-5 = a",
          "- -5 = a", "--5 = a", "a = --5", "a = - -5", "-t", "-TRUE", "a = -2147483648", "a = -9223372036854775808", "a >= -5", "+5 = a", "+a = 5", "+'x' = s", "a = 5 = TRUE",
          "a = 7 = 7", "a = 7 = TRUE", "(a = 7) = TRUE", "(a = 7) > 5", "a > 5 > 5", "1 < 2", "2 < 1", "1 = 1.0", "1 = '1'", "'1' = 1", "'x' = 1", "1 <> 'x'", "5 <> a", "'x' <> a",
          "a -- comment", "a = 7 -- comment", "a = 7 -- comment\n", "a = -- comment\n7", "a = -- c\r7", "a /* c */ = 7", "a /* c * / **/ = 7", "a /* c = 7", "a = 7 /* c", "/**/a = 7", "/*/ a = 7",
          "a = 7 #", "a = 7 # x", "# a", "a # = 7", "a = 'x", "a = 'x''", "a = x'", "a = \"x\"", "a\t=\n7\r\f", "a\v= 7", "a = 7\0", "é = 7", "a = é", "日 = 7", "a\u00a0= 7",
          "a AND b", "a OR b", "t AND t", "t = TRUE AND a IS NULL", "AND a", "OR", "a AND OR b", "a, b", "(a, b)", "a = (7)", "((((a)))) = ((((7))))", "(a = 7", "((a = 7)", "a = 7)",
          "a = 1 OR (b = 5 AND (c = 7 OR d IS NULL))", "s > 5 OR a = 7", "a = 7 OR s > 5", "a > -(s > 5)", "missing > -(s > 5)", "a = -(s > 5)", "missing = -(s > 5)", "IN", "a BETWEEN",
          "between = 5", "contains CONTAINS 'x'", "a <", "a < > 5", "a > = 5", "a <= >= 5", "a<>5", "a>5AND b=5", "a=5OR b=7", "a=5.0OR b=7", "5a = 5", "a5 = 5", "a IS NULLx", "aIS NULL",
          "a in('7','5')", "a Not In ('x')", "a nOt BeTwEeN 1 aNd 5", "s sTaRtSwItH 'a'", "nOt(tRuE)", "a iS nUlL", "a contains '7'contains '7'", "s STARTSWITH ''", "s ENDSWITH ''",
          "s NOT STARTSWITH ''", "a IN ('1','2','3','4','5','6','7','8','9')", "a NOT IN ('1','2','3','4','5','6','7','8','9')", "a IN ('x','x','7','7')", "a;b", "a = 7;", "a && b", "a || b", "!a",
          "a = 1 - 1", "a = 1 -1", "a * 2 = 14", "a / 2 = 1", "a = 5 IS NULL", "a = 5 IS NOT NULL", "(a IS NULL) IS NULL", "a > 5 IS NULL", "missing > 5 IS NULL", "s > 5 IS NULL"]


class Gen:
    def __init__(self, seed):
        self.r = random.Random(seed)

    def case(self, word):
        return "".join(c.upper() if self.r.random() < 0.5 else c.lower() for c in word) if self.r.random() < 0.2 else word

    def blank(self):
        return self.r.choice([" "] * 12 + ["  ", "\t", "\n", " /* c */ ", " -- c\n"])

    def number(self):
        return self.r.choice(["", "", "", "-", "+", "- "]) + self.r.choice(DECIMALS if self.r.random() < 0.65 else FLOATS)

    def name(self):
        return self.r.choice(NAMES)

    def value(self):
        k = self.r.random()
        if k < 0.45:
            return self.name()
        if k < 0.75:
            return self.number()
        if k < 0.92:
            return self.r.choice(STRINGS)
        return self.r.choice([self.case("TRUE"), self.case("FALSE"), self.case("NULL"), "(" + self.name() + ")", "-" + self.name(), "-(" + self.name() + ")"])

    def strings(self):
        return ",".join(self.r.choice(STRINGS) for _ in range(self.r.choice([1, 1, 2, 3, 6])))

    def leaf(self):
        r, b = self.r, self.blank
        left = self.name() if r.random() < 0.8 else self.value()
        k = r.randrange(12)
        negated = self.case("NOT") + b() if r.random() < 0.35 else ""
        if k < 3:
            return left + b() + r.choice(["=", "<>"]) + b() + self.value()
        if k < 6:
            right = self.number() if r.random() < 0.7 else self.value()
            return left + b() + r.choice([">", ">=", "<", "<="]) + b() + right
        if k == 6:
            return left + b() + self.case("IS") + b() + negated + self.case("NULL")
        if k == 7:
            bounds = [self.number(), self.number()] if r.random() < 0.6 else [r.choice(DECIMALS[:9]), r.choice(DECIMALS[3:12])]
            if r.random() < 0.15:
                bounds[r.randrange(2)] = self.value()
            return left + b() + negated + self.case("BETWEEN") + b() + bounds[0] + b() + self.case("AND") + b() + bounds[1]
        if k == 8:
            return left + b() + negated + self.case("IN") + b() + "(" + self.strings() + ")"
        if k < 11:
            return left + b() + negated + self.case(r.choice(["CONTAINS", "STARTSWITH", "ENDSWITH"])) + b() + r.choice(STRINGS)
        return self.value()

    def expression(self, depth=0):
        r = self.r
        k = r.random()
        if depth > 3 or k < 0.45:
            return self.leaf()
        if k < 0.72:
            return self.expression(depth + 1) + self.blank() + self.case(r.choice(["AND", "OR"])) + self.blank() + self.expression(depth + 1)
        if k < 0.86:
            return self.case("NOT") + r.choice(["", " "]) + "(" + self.expression(depth + 1) + ")"
        if k < 0.96:
            return "(" + self.expression(depth + 1) + ")"
        return "(" + self.expression(depth + 1) + ") " + r.choice(["= TRUE", "= FALSE", "<> TRUE", "IS NULL", "IS NOT NULL", "= 5", "= a"])

    def damaged(self):
        """An expression with a piece dropped, doubled or put in."""
        e = self.expression()
        for _ in range(self.r.choice([1, 1, 2])):
            at = self.r.randrange(len(e) + 1)
            k = self.r.randrange(3)
            if k == 0:
                e = e[:at] + e[at + self.r.choice([1, 1, 2, 5]):]
            elif k == 1:
                e = e[:at] + self.r.choice(["(", ")", "'", " NOT ", " AND ", ",", "-", "=", "#", " 5", ".", "é", " OR ", "<", "''", "*/", "/*", "--", "\n"]) + e[at:]
            else:
                e = e[:at] + e[max(0, at - 3):]
        return e

    def text(self):
        k = self.r.random()
        if k < 0.12:
            return self.r.choice(BROKEN)
        return self.damaged() if k < 0.22 else self.expression()

    def properties(self):
        """As the broker stores them: name, 1, value, 2; at times twice, at times without the end, or malformed."""
        r = self.r
        pairs = [(n, r.choice(VALUES)) for n in NAMES if n not in ("missing",) and r.random() < 0.75]
        if r.random() < 0.1:
            pairs.append((r.choice(NAMES), r.choice(VALUES)))
        r.shuffle(pairs)
        text = "".join(n + "\x01" + v + "\x02" for n, v in pairs)
        if r.random() < 0.2:
            text = text[:-1]
        if r.random() < 0.03:
            text = text.replace("\x01", r.choice(["", "\x02", "\x01\x01"]), 1)
        return text

    def cases(self, n, messages):
        """n expressions, each with some messages; the list of broken ones whole, first."""
        for i in range(n):
            e = BROKEN[i] if i < len(BROKEN) else self.text()
            for _ in range(messages):
                yield e, self.properties()
