"""Strings that tokenizers trip over. Built from code alone; the order is part of golden files."""

from __future__ import annotations

import unicodedata

BASE = [
    "", " ", "\n", "\t \r\n", "a", "A", "z9", "cat", "a photo of a cat", "A PHOTO OF A CAT",
    "  leading and trailing  ", "double  spaces", "tabs\tand\nnewlines", "no.spaces,after;stops",
    "it's", "IT'S", "they're we've I'm you'll he'd", "'tis 'twas rock'n'roll", "don’t — “quotes”",
    "3.14159", "1,000,000", "1234567890", "½ ¾ ² ³ ① ⅷ", "٣٤٥ ६७८", "C++ & C#", "snake_case kebab-case",
    "CamelCaseWord", "e-mail@example.com", "https://example.com/a?b=c&d=e#f", "/usr/bin/env", "C:\\dir",
    "<b>bold</b>", "<br/>", "&amp;", "&amp;amp;lt;", "&lt;script&gt;", "&#39;", "&nbsp;x", "&notareal;",
    "<|startoftext|>", "<|endoftext|>", "<|STARTOFTEXT|>", "<|EndOfText|>", "< |endoftext|>",
    "a<|endoftext|>b", "a <|endoftext|> b", "<|startoftext|> a cat <|endoftext|>",
    "<|endoftext|><|endoftext|>", "<|endoftext|", "|endoftext|>", "<|pad|>", "<|im_start|>", "</s>",
    "</w>", "cat</w>", "!", "!!!", "...", "???!!!", "-", "--", "—", "_", "__init__", "$100", "€50", "50%",
    "#hashtag", "@user", "*", "**bold**", "`code`", "~", "^", "|", "\\", "/", "[]{}()", "<>", "=>", "!=",
    "naïve café", "Ångström", "Übergröße", "STRASSE straße ẞ", "İstanbul ısı", "ΑΒΓΔ αβγδς", "Привет, мир",
    "日本語のテキスト", "東京タワー", "中文字符测试", "繁體中文", "한국어 텍스트", "ㅎㅏㄴ", "ไทยไม่มีช่องว่าง", "हिन्दी में",
    "தமிழ்", "বাংলা", "עברית", "العربية", "مَرْحَبًا", "فارسی‌زبان", "አማርኛ", "ქართული", "Հայերեն", "ភាសាខ្មែរ", "မြန်မာ",
    "🐈", "🐈🐕", "a 🐈 cat", "👨‍👩‍👧‍👦", "👍🏽", "🇩🇪🇯🇵", "🏳️‍🌈", "❤️", "☺", "☺️", "1️⃣", "🫠", "𝒜𝓁𝑔", "𝔉𝔯𝔞𝔨", "Ⓐⓑⓒ", "ﬁ ﬂ ﬃ",
    "ＦＵＬＬ　ｗｉｄｔｈ", "ｶﾅ", "㎏ ㎡ ㏂", "Ⅷ", "é", "e\u0301", "ñ", "n\u0303", "Å", "A\u030a", "\u212b", "ộ",
    "o\u0323\u0302", "o\u0302\u0323", "Z̷a̷l̷g̷o̷", "a" + "\u0301" * 30, "\u0301", "\u200b", "a\u200bb", "a\u200db",
    "a\u200cb", "a\u2060b", "\ufeff", "\ufeffbom", "a\u00adb", "\u202eabc", "\u2066iso\u2069", "\u00a0",
    "a\u00a0b", "a\u2003b", "a\u3000b", "a\u2028b", "a\u2029b", "a\u0085b", "a\u000bb", "a\u000cb", "a\u001cb",
    "\x00", "a\x00b", "\x01\x02\x03", "\x07bell", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x9f", "\ufffd", "\ufffe", "\uffff",
    "\U0010ffff", "\ue000", "Ã©", "â€™", "Ã¢â‚¬â„¢", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "æ–‡å­—", "Ăˆ", "schÃ¶n", "â˜º",
    "x" * 76, "x " * 75, "x " * 76, "x " * 77, "x " * 78, "word " * 100, "a" * 1000, "ab" * 500, "🐈" * 100,
    "日" * 100, ". " * 80, "1 " * 80, "' " * 80, "'s" * 50, "a" * 10_000, "word " * 2_000, "\n" * 10_000,
    "<|endoftext|>" * 100, "é" * 10_000, "\u0301" * 1000, "q" * 77 + "<|endoftext|>", "#" * 500, "_" * 500,
    "supercalifragilisticexpialidocious", "pneumonoultramicroscopicsilicovolcanoconiosis",
    "DROP TABLE users; --", "'; --", "${jndi:ldap://x}", "%s %d %n", "{0} {}", "{{7*7}}", "../../etc/passwd",
    "null", "None", "NaN", "true", "undefined", "0x1F", "1e10", "-1", "+1", "½a", "a½", "²x", "x²",
    "\"double\"", "''", "\"\"", "``''", "«guillemets»", "„low“", "‘single’", "…", "·", "•", "†", "§", "¶", "©®™",
    "→←↑↓", "≤≥≠≈", "∀x∈ℝ", "√2", "∑∏∫", "░▒▓", "■□▢", "♠♣♥♦", "♪♫", "☃", "✓✗", "〒", "々", "〆", "ー", "・", "。、",
    "「」", "！？", "～", "ʻokina", "ʼn", "ŉ", "ǆ ǅ Ǆ", "ĳ Ĳ", "ſ", "K", "ß", "ŀ", "ª º", "µ μ", "Ω Ω", "ͅ", "ᾳ", "ΐ",
]  # fmt: skip


def strings() -> list[str]:
    """At least 300 strings, all different."""
    found = list(BASE)
    # Every combination of a sign and a letter around a space: where words begin and end.
    for sign in "'\"-.,!#&$<":
        found += [f"a{sign}b", f"a {sign}b", f"a{sign} b", f"{sign}a{sign}"]
    # One character of each script block, alone and inside a word.
    for code in range(0x0100, 0x3000, 0x0055):
        if unicodedata.category(chr(code)) not in ("Cn", "Cs"):
            found += [chr(code), f"x{chr(code)}y"]
    # One word more each time, up to and beyond every context.
    found += [" ".join(["shape"] * count) for count in range(1, 90)]
    return list(dict.fromkeys(found))
