"""Templates with their variables, whose texts by Python's Jinja2 are the golden of rorqual's own (check_chat_template.py)."""

NOW = 1735214400  # 2024-12-26 12:00:00 UTC

TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Weather of a \"city\" <now> & later",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string", "description": "Zürich, 北京, …"}, "days": {"type": "integer", "minimum": 1, "default": 3},
            "scale": {"type": "number", "enum": [0.5, 1.0, 1e100, -2.5e-7]}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "now", "description": None, "parameters": {}}},
]

CONTEXT = {
    "s": "Hello, World", "t": "  padded\t\n", "u": "Zürich 北京 😀", "e": "", "multi": "one\ntwo\r\n\nthree", "csv": "a,b,,c",
    "n": 7, "z": 0, "neg": -7, "f": 2.5, "big": 9007199254740993, "yes": True, "no": False, "nil": None,
    "l": [3, 1, 2], "words": ["pear", "Apple", "fig"], "nested": [[1, 2], [3, [4]]], "empty": [], "mixed": [1, "a", None, True, 2.0],
    "d": {"b": 1, "a": 2, "items": "key", "C": 3}, "people": [{"name": "Bo", "age": 30, "x": {"y": [5]}}, {"name": "al", "age": 20},
                                                              {"name": "Cy", "age": 25, "x": None}],
    "quote": "it's \"so\" \\ <b>&</b>", "control": "a\u0000b\u0007\u007f\u00a0\u2028\ufeff",
    "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi\n"},
                 {"role": "assistant", "content": " Hello! "}, {"role": "user", "content": "Bye"}],
    "tools": TOOLS, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True,
}

EXPRESSIONS = r"""
1 | 1.0 | 1e3 | 1.5e-7 | 1e16 | 123456789.0 | 1e100 | 0.1 + 0.2 | 1_000 | -5 | +n | --n | - - 3 | true | True | none | None | False
'a' "b" | 'a' 'b' 'c' | "it's" | 'tab\tnew\nx\x41\u00e9\U0001F600\'\"\\' | '\101\0' | '\d\w' | "" | '{{ }} {% %}' | '#}'
n + 1 | n - 10 | n * 3 | n / 2 | n // 2 | neg // 2 | n % 3 | neg % 3 | n % -3 | f // 1 | f % 1 | -f % 1 | f ** 2 | 2 ** 10 | 2 ** -1 | 2 ** 3 ** 2 | -2 ** 2
7 / 7 | 6 / 3 | 1 / 3 | 10 // 3.0 | n + f | yes + yes | 5 * 'ab' | 'ab' * 2 | [1] * 3 | [1] + [2] | (1,) + (2,) | 'a' + 'b' | -1 * 'a'
1 + 2 * 3 | (1 + 2) * 3 | 1 - 2 - 3 | 2 * 3 % 4 | 'a' ~ 1 ~ none ~ 2.0 ~ true | 1 ~ 2 + 3 | n ~ undefined_thing ~ 'x' | 'x' ~ l ~ d
n == 7 | n == 7.0 | yes == 1 | 'a' == 'a' | l == [3, 1, 2] | d == {'a': 2, 'b': 1, 'C': 3, 'items': 'key'} | (1, 2) == [1, 2] | nil == none | missing == other
n != 7 | n < 8 | n <= 7 | n > 7 | n >= 7 | 1 < 2 < 3 | 1 < 3 < 2 | 3 > 2 == 2 | 'a' < 'b' | 'B' < 'a' | [1, 2] < [1, 3] | 'ü' > 'z' | 1 < 2.5 | yes > no
'ell' in s | 'x' in s | '' in s | 'x' not in s | 3 in l | 9 in l | 'a' in d | 'z' not in d | 2 in d | 1 in mixed | 'a' in missing | [4] in nested[1] | 1.0 in l
not n | not z | not '' | not not n | n and z | n or z | z or 'x' | e or none or 'last' | z and missing.x | yes and 'a' or 'b' | not n == 7 | not (n and z)
'a' if n else 'b' | 'a' if z else 'b' | 'a' if z | ('a' if z) is defined | 'x' if no else 'y' if z else 'q' | 1 if n > 3 and f < 3 else 2
s[0] | s[-1] | s[100] | s[1:3] | s[:-1] | s[::-1] | s[::2] | s[5:1:-1] | s[-3:] | s[10:100] | s[:0] | u[0] | u[1] | u[7:9] | u[-1] | u[::-1] | u[9]
l[0] | l[-1] | l[5] | l[1:] | l[::-1] | l[:2] | l[-2:-1] | l[5:] | l[yes] | nested[1][1][0] | nested[0, 1] | d['a'] | d.a | d['zz'] | d.zz | d.C | d['items'] | people[0].x.y[0]
people[0]['name'] | people[-1].age | people.0.name | l.0 | nil.x | nil['x'] | n.x | s.x | d[0] | d[none] | tools[0].function.parameters.properties.city.description
l | mixed | nested | d | [] | {} | () | (1,) | (1, 2) | 1, 2 | {'a': 1, 2: [3], none: (4,), true: 'x', 1.5: 0} | ['it\'s', "a\"b", 'both\'"', 'n\n'] | [control] | [u] | ['\u200b\ue000\u0301\xad']
undefined_thing | undefined_thing is defined | [missing] | {'a': missing} | missing | missing ~ '' | missing or 'x' | (missing)|length | missing|list | missing|join
s|upper | s|lower | u|upper | u|lower | 'éß'[:1]|upper | s|capitalize | 'ABC def'|capitalize | 'hello wOrld-foo (bar) [baz]'|title | 'ünder über'|title | e|capitalize | n|upper | nil|lower
t|trim | t|trim|length | 'xxaxx'|trim('x') | '--a-b--'|trim('-') | '\u00a0a\u3000\u0085'|trim|length | '\ufeffa'|trim|length | '\x1ca\x1f'|trim|length | n|trim | s|length | u|length | l|length | d|length | e|length | l|count
l|first | l|last | empty|first | empty|last | s|first | s|last | d|first | d|last | (1,2)|last | empty|first is defined | people|first
l|join | l|join(', ') | l|join(d='-') | words|join(n) | mixed|join('|') | people|join(', ', attribute='name') | people|join(', ', 'age') | s|join('.') | d|join(',') | empty|join('x') | nested|join(' ')
missing|default('x') | missing|default | e|default('x') | e|default('x', true) | nil|default('x') | nil|d('x', boolean=True) | n|default('x') | missing.y|default('x') if no else 'safe' | missing|default(n + 1) | z|default(5, true)
'12'|int | ' 12 '|int | '-3'|int | '+4'|int | '1_000'|int | '12abc'|int | '12abc'|int(5) | '3.9'|int | 'ff'|int(base=16) | '0xff'|int(0, 16) | '0b11'|int(0, 2) | 3.99|int | -3.99|int | true|int | none|int | e|int(-1) | l|int
'1.5'|float | 'x'|float | 'x'|float(2.5) | ' 1e3 '|float | '1_0.5'|float | n|float | 'inf'|float | 'nan'|float | true|float | none|float(1)
n|string | nil|string | l|string | d|string | f|string | s|string | missing|string | true|string | 1e22|string | 1e15|string | 0.0001|string | 0.00001|string | -0.0|string | 5e-324 | 1.7976931348623157e308 | 100000000000000000.0 | 3.14159
s|list | l|list | d|list | empty|list | u|list | (1, 2)|list
s|replace('l', 'L') | s|replace('l', 'L', 1) | s|replace('', '-') | u|replace('', '.') | s|replace('Hello', '') | n|replace(7, 8) | 'aaa'|replace('aa', 'b') | 'aaa'|replace('a', 'bb', 2) | e|replace('', 'x') | 'ab'|replace('', '-', 2) | s|replace('zz', 'y') | 'ab'|replace('', '-', 0)
s|reverse | u|reverse | l|reverse|list | d|reverse|list | empty|reverse|list
l|sort | words|sort | words|sort(case_sensitive=true) | l|sort(reverse=true) | people|sort(attribute='age')|map(attribute='name')|list | people|sort(attribute='name')|map(attribute='name')|join(' ') | mixed|select('number')|sort|list | words|sort(true) | d|sort
[1, 1, 2, 1.0, 'a', 'A']|unique|list | ['a', 'A', 'b']|unique(true)|list | people|unique(attribute='age')|map(attribute='age')|list | 'aabbA'|unique|list | d.items()|unique|list | [(1, 'a'), (1.0, 'a'), (2, 'a')]|unique|list | [(1, [2])]|unique|list
d|dictsort | d|dictsort(true) | d|dictsort(false, 'value') | d|dictsort(reverse=true, by='key') | {'b': 1, 'a': 1}|dictsort(by='value') | {}|dictsort
l|map('string')|list | words|map('upper')|list | people|map(attribute='name')|list | people|map(attribute='zz')|list|length | people|map(attribute='zz', default='q')|list | people|map(attribute='x.y')|list|length | words|map('replace', 'p', 'P')|join(' ') | words|map('length')|sum | words|map('default', 'x')|list | nested|map('first')|list | nested|map(attribute=0)|list | ['1', 'x']|map('int', default=9)|list
l|select('odd')|list | l|reject('odd')|list | mixed|select|list | mixed|reject|list | l|select('gt', 1)|list | l|select('>', 2)|list | l|reject('equalto', 3)|list | words|select('in', ['fig', 'pear'])|list | mixed|select('string')|list | mixed|select('none')|list
people|selectattr('age', 'gt', 20)|map(attribute='name')|list | people|selectattr('x')|list|length | people|rejectattr('x')|map(attribute='name')|list | people|selectattr('x', 'defined')|list|length | people|rejectattr('name', 'equalto', 'Bo')|list|length | people|selectattr('x.y', 'defined')|list|length | messages|selectattr('role', '==', 'user')|map(attribute='content')|join('|') | messages|rejectattr('role', 'in', ['user', 'system'])|list
multi|indent | multi|indent(2) | multi|indent(2, true) | multi|indent('> ', first=true) | multi|indent(1, blank=true) | e|indent | 'a'|indent(3, true) | 'a\n'|indent(2)
-5|abs | (-5)|abs | f|abs | (-2.5)|abs | 2.5|round | 3.5|round | 2.567|round(2) | 2.567|round(1, 'floor') | 2.1|round(method='ceil') | 7|round | 2.675|round(2) | -0.5|round | 1e20|round
l|sum | empty|sum | people|sum(attribute='age') | l|sum(start=10) | [1.5, 2]|sum | nested|sum(start=[]) | l|min | l|max | words|min | words|max | words|max(case_sensitive=true) | people|max(attribute='age') | empty|max | [2, 2.0]|max | ['b', 'B']|min
d|items|list | d|items|first | missing|items|list | {}|items|list | tools[0].function|items|map('first')|list
n|tojson | s|tojson | u|tojson | nil|tojson | yes|tojson | f|tojson | 1e100|tojson | 1.0|tojson | l|tojson | d|tojson | nested|tojson | quote|tojson | control|tojson | {}|tojson | []|tojson | (1, 2)|tojson | {1: 2, none: 3, true: 4, 1.5: 6}|tojson | tools|tojson
tools|tojson(indent=2) | d|tojson(indent=4) | []|tojson(indent=2) | {'a': [], 'b': {}}|tojson(indent=1) | l|tojson(indent='\t') | d|tojson(sort_keys=true) | u|tojson(ensure_ascii=true) | '\x7f\u2028'|tojson(true) | l|tojson(separators=(',', ':')) | d|tojson(separators=[', ', '=']) | l|tojson(indent=0) | 'inf'|float|tojson | tools|tojson(indent=2, sort_keys=true) | l|tojson(indent=none)
n is defined | missing is defined | missing is undefined | d.zz is defined | nil is none | n is none | missing is none | n is number | f is number | yes is number | s is number | n is integer | yes is integer | f is integer | f is float | yes is boolean | n is boolean | yes is true | n is true | no is false | z is false
s is string | n is string | l is string | d is mapping | l is mapping | l is iterable | s is iterable | n is iterable | d is iterable | missing is iterable | nil is iterable | l is sequence | s is sequence | d is sequence | n is sequence | range is callable | n is callable | missing is callable
n is odd | n is even | 1.5 is odd | 1.5 is even | 3.0 is odd | -3 is odd | -3 is even | 4.0 is even | n is divisibleby 7 | n is divisibleby(2) | n is not divisibleby 2 | s is upper | 'AB1' is upper | 'ab1' is lower | '1' is lower | n is eq 7 | n is equalto(7) | n is ne 7 | n is lt 8 | n is ge(7) | n is greaterthan 3 | n is in l | 3 is in l | 3 is in [1, 3] | n is sameas n | yes is sameas true | 1 is sameas true | nil is sameas none | n is not none and s is string | 'upper' is filter | 'zzz' is filter | 'odd' is test
not n is none | n is not none | n is defined and n > 3 | (n is none) | n|string is string | -n is number | l|length is gt 2 | n is none or yes | d.a is defined is true
s.upper() | s.lower() | u.upper() | t.strip() | t.lstrip()|length | t.rstrip()|length | 'xxaxx'.strip('x') | 'xyaxy'.lstrip('xy') | 'abc'.rstrip('cb') | s.split() | s.split(', ') | csv.split(',') | csv.split(',', 1) | csv.split(',', maxsplit=2) | csv.rsplit(',', 1) | t.split() | '  a b  c '.split(none, 1) | '  a b  c '.rsplit(none, 1) | e.split() | e.split(',') | ' a '.split(' ') | 'a</think>b</think>c'.split('</think>')[-1] | s.split('zz') | 'aXbXc'.rsplit('X') | 'a\u3000b'.split()
s.startswith('He') | s.startswith(('x', 'H')) | s.endswith('d') | s.endswith('') | s.replace('l', '') | s.replace('l', 'L', 1) | 'abab'.replace('', '-') | s.find('o') | s.rfind('o') | s.find('zz') | u.find('北') | s.index('W') | s.count('l') | e.count('') | 'aaaa'.count('aa') | ', '.join(words) | ''.join([]) | '-'.join('abc') | s.title() | "they're bill's".title() | s.capitalize() | multi.splitlines() | multi.splitlines(true) | 'a\x0bb\u2028c'.splitlines()
'12'.isdigit() | e.isdigit() | 'ab'.isalpha() | 'a1'.isalnum() | ' \t'.isspace() | e.isspace() | 'AB'.isupper() | 'Ab'.islower() | 'prefix-x'.removeprefix('prefix-') | 'x.py'.removesuffix('.py') | 'x'.removesuffix('') | 'a=b=c'.partition('=') | 'a=b=c'.rpartition('=') | 'abc'.partition('=') | 'abc'.rpartition('=') | l.index(1) | l.count(3) | words.index('fig') | (1, 2, 1).count(1)
d.items()|list | d.keys()|list | d.values()|list | d.get('a') | d.get('zz') | d.get('zz', 5) | d.get('items') | d.items is defined | d['keys'] is defined | tools[0]['function'].get('name') | d.get(none) | {'get': 1}.get('get') | {'get': 1}['get']
range(3)|list | range(1, 4)|list | range(5, 0, -2)|list | range(0)|list | range(3)[1] | dict(a=1, b=[2]) | dict(d, a=9) | dict() | dict({'x': 1}, **{'y': 2}) | dict(**d)
strftime_now('%Y-%m-%d') | strftime_now('%d %b %Y %H:%M:%S %j %A') | strftime_now('') | namespace(a=1).a | namespace({'k': 2}).k | namespace().zz is defined | namespace(a=1)['a']
[1, 2, 3,] | {'a': 1,} | (1, 2,) | [ ] | {'a': {'b': {'c': 1}}}.a.b.c | {'a': {'b': 1}}['a']['b'] | [[1, 2], [3]][0][1] | ('a', 'b')[1] | 'abc'[1] | [1, 2][-1] | {'x': [1]}.x[0]
l|map('string')|join(',')|upper ~ '!' | (l|sort)[0] | l|sort|first + 1 | s|lower|replace('o', '0')|trim('h') | (s ~ t)|trim|length | -l|first | l|length * 2 | 1 if l|length > 2 else 0 | s.split(',')[1].strip().upper()[0] | not l|length == 3
n == 7 and s == 'Hello, World' and not nil | (n == 7) == true | n in [7] == true | 1 in [1] and 2 in [2] | not 1 in [1] | 'a' 'b' in 'xabx' | 2 == 1 + 1 | 3 * 'x' == 'xxx' | 1 - -1 | 2 - 1 ~ 3
{1: 'a', 1.0: 'b', true: 'c'} | {'a': 1, 'a': 2} | {1: 2}[1.0] | {'1': 2}[1] is defined | {none: 1}[none] | {(1): 2} | 9223372036854775807 | 9223372036854775807 - 1 | big + 0 | big * 1.0 | big == 9007199254740992.0 | 1e308 * 10 | 0.1 * 3 | 7.0 // 2 | -7 // 2.0 | 7 % 2.5 | -7.5 % 2 | 5 // -3 | 1e3|int | 10 ** 15 * 1.0
"""

ERRORS = r"""
1 / 0 | 1 // 0 | 1 % 0 | 1.0 / 0 | 0 ** -1 | 'a' + 1 | 1 + 'a' | [1] + (2,) | none + 1 | 'a' - 'b' | 'a' * 'b' | -'a' | l + 1 | d + d | 1 < 'a' | none < 1 | [1] < [none] | d < d | 1 in 5 | 1 in 'abc' | 'a' in none | [1] in d
missing|int | missing|float | missing.x | missing['x'] | missing() | missing + 1 | 1 + missing | -missing | missing.x.y | d.zz.y | people[0].zz.q | missing[0:1] | n() | s() | l() | 'x'() | nil() | d.zz() | d.a()
n|length | nil|length | n|list | nil|join | n|first | l|nosuchfilter | l is nosuchtest | l|join(1, 2, 3) | s|replace('a') | s|replace | s|upper(1) | l|join(zz=1) | l|tojson(zz=1) | people|map(attribute='x.y.z')|list | l|map('nosuch')|list | l|select('nosuch')|list | mixed|sort | mixed|sum | l|selectattr()|list
'abc'.nosuch() | s.split('') | s.split(1) | s.startswith(1) | s.index('zz') | l.index(99) | l.append(1) | d.update({}) | d.pop('a') | l.pop() | l.clear() | l.sort() | ','.join([1]) | s.join(5) | s.replace('a') | d.get() | d.get([]) | s.strip(1) | d.items(1) | s.upper(1)
raise_exception('no!') | raise_exception() | range() | range('a') | range(1, 2, 0) | range(1000000) | dict(1) | namespace(1) | {[]: 1} | {{}: 1} | [1, 2][1:2:0] | s['a':] | l['x':] | n[:2] | d[:1] | nil[0:] | strftime_now() | strftime_now(1) | n is odd is even | s is odd | l is divisibleby 2 | n is divisibleby 0 | n is divisibleby | n is eq
1 + | * 2 | (1 | [1 | {1 | {1: | 1 2 | 'abc | a b | n. | n.'x' | l[ | l[] | 1 = 2 | n | | n|  | n|1 | n is | n is 5 | not | and 1 | 1 and | 1 if | if 1 | , 1 | () () | {'a'} | {'a': } | f(a=1, 2) | f(a=1, a=2) | dict(a=1, **{'a': 2}) | n ! | n @ 2 | n $ | ? | n; | 0x1G | 1__0 | 012 | '\x4' | '\u12' | '\ud800' | true = 1 | a.b.c = 1 | } | ) | ] | (] | [) | {'a': 1)
l|abs | s|abs | s|round | n|indent | l|int(1, 2, 3) | n|items|list | l|items|list | n|dictsort | d|dictsort(by='zz') | s|sum | nil|map('upper')|list | nil|reverse|list | n|unique|list | nested|unique|list | 5|max | none|sort
"""

TEMPLATES = [
    "", "\n", "\n\n", "text", "text\n", "text\n\n", "a\r\nb\rc\n", "{{ n }}\n", "{{ n }}\n\n", "  {{ n }}  \n  x", "{ n }", "{ { n } }", "a { b } %}",
    "{", "{{'{'}}", "a{# comment #}b", "a {#- c -#} b", "a\n  {# c #}\nb", "a\n  {# c #}  \nb", "a {#+ c +#}\n b", "{# {{ n }} {% if %} #}x", "{# multi\nline #}\nx",
    "{#\n#}\n\n#}", "{% if n %}\nyes\n{% endif %}\nend", "  {% if n %}  \n  yes\n  {% endif %}\nend", "a  {%- if n %}  b  {%- endif %}  c",
    "a  {% if n -%}  b  {% endif -%}  c", "a\n\n  {%- if n -%}\n\n b \n\n{%- endif -%}\n\n c", "x {%+ if n %}a{% endif %}", "  {%+ if n %}a{%+ endif %}", "{% if n +%}\na{% endif +%}\nb",
    "a \n {{- n -}} \n b", "a {{ n -}}\n\n  b", "a\n  {{- n }}", "\t{% if n %}\tx\n\t{% endif %}y", "\u00a0{% if n %}x{% endif %}", "a\u3000{%- if n -%}\u2003x{% endif %}",
    "x{% if n %}{% if s %}\n  y\n  {% endif %}{% endif %}z", "{% if n %}\n\n\na{% endif %}", "{% if n %}a{% endif %}\n\n\nb", "{{ n }}{% if n %}\n{% endif %}\n{{ n }}", "line1\n    {% if n %}in{% endif %} after\n",
    "{% raw %}{{ n }} {% if %} {# #}{% endraw %}", "a\n  {% raw %}\n x {{ y }}\n  {% endraw %}\nb", "a {%- raw -%}  {{ x }}  {%- endraw -%} b", "{% raw %}{% endraw %}", "{%raw%} {%endraw%}", "x{% raw -%}\n  a{% endraw %}\nb", "  {%+ raw %}a{%+ endraw +%}\nb",
    "{% if n == 7 %}a{% elif n == 8 %}b{% else %}c{% endif %}", "{% if z %}a{% elif nil %}b{% elif s %}c{% else %}d{% endif %}", "{% if z %}a{% else %}b{% endif %}", "{% if z %}a{% endif %}", "{% if not z and (n or missing.x) %}ok{% endif %}",
    "{% if (1 if n else 0) %}a{% endif %}", "{% if 1, 2 %}a{% endif %}", "{% if missing %}a{% else %}b{% endif %}", "{% if n %}{{ x|nosuch if false else 1 }}{% endif %}", "{% if false %}{{ n|nosuch }}{% endif %}x", "{% if false %}{{ n is nosuch }}{% endif %}x",
    "{% for x in l %}{{ x }},{% endfor %}", "{% for x in l %}\n  - {{ x }}\n{% endfor %}\nend", "{%- for x in l -%} {{ x }} {%- endfor -%}", "{% for x in empty %}a{% else %}none{% endfor %}", "{% for x in l %}a{% else %}none{% endfor %}", "{% for c in s %}{{ c }}.{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for (k, v) in d|items %}{{ k }}{{ v }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in nested %}{{ a }}{{ b }}{% endfor %}",
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }} {% endfor %}", "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {% endfor %}", "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}", "{% for x in l %}{% for y in nested %}{{ loop.depth }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}", "{% for x in l %}{{ loop.zz is defined }}{% endfor %}", "{% for x in l %}{{ loop|length }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ x }}{{ loop.index }}{{ loop.length }}{% endfor %}", "{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}", "{% for m in messages if m.role == 'user' %}{{ m.content }}{{ loop.last }}{% endfor %}", "{% for x in l|sort %}{{ x }}{% endfor %}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in (l if n else []) %}{{ x }}{% endfor %}", "{% for x in l if x > 1 if x < 3 else false %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% else %}e{% endfor %}", "{% for x in l %}{% for y in l %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}|{% endfor %}", "{% for x in missing %}a{% else %}b{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}", "{% for i in range(messages|length - 1, -1, -1) %}{{ messages[i].role }} {% endfor %}", "{% for m in messages[::-1] %}{{ m.role }} {% endfor %}", "{% for m in messages[1:] %}{{ m.role }} {% endfor %}",
    "{% set x = 1 %}{{ x }}", "{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}", "{% for i in l %}{% set x = (x|default(0)) + i %}{{ x }} {% endfor %}{{ x is defined }}", "{% set x = 1 %}{% if n %}{% set x = 2 %}{% endif %}{{ x }}", "{% set x, y = 1, 2 %}{{ x }}{{ y }}", "{% set x = 1, 2 %}{{ x }}", "{% set (a, b) = l[:2] %}{{ a }}{{ b }}", "{% set n = 9 %}{{ n }}", "{% set x = n if n else z %}{{ x }}", "{% set x %}in {{ n }}\n{% endset %}[{{ x }}]", "{% set x | upper %}in {{ s }}{% endset %}[{{ x }}]", "{% set x | trim | replace('a', 'b') %} a {% endset %}[{{ x }}]", "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% set loop = 5 %}{{ loop }}{% for i in l %}{{ loop.index }}{% endfor %}{{ loop }}", "{% set x = l %}{% set x = x + [4] %}{{ x }}{{ l }}",
    "{% set ns = namespace(a=1) %}{{ ns.a }}{% set ns.a = 2 %}{{ ns.a }}{% set ns.b = 'x' %}{{ ns.b }}", "{% set ns = namespace(count=0) %}{% for x in l %}{% set ns.count = ns.count + x %}{% endfor %}{{ ns.count }}", "{% set ns = namespace() %}{% set ns.x %}block {{ n }}{% endset %}{{ ns.x }}", "{% set ns = namespace(t='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.t = ns.t ~ m.content|trim %}{% endif %}{% endfor %}[{{ ns.t }}]", "{% set a = namespace(x=1) %}{% set b = a %}{% set b.x = 5 %}{{ a.x }}", "{% set ns = namespace(l=[]) %}{% for x in l %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.l }}", "{% set ns = namespace(a=1) %}{{ ns.zz is defined }}{{ ns == ns }}",
    "{% macro m() %}x{% endmacro %}{{ m() }}{{ m() }}", "{% macro m(a, b=2, c='z') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=5) }}{{ m() }}{{ m(b=7, a=6) }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(4) }}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}", "{% macro m(a) %}{{ a }}{{ varargs|length }}{% endmacro %}{{ m(1, 2, 3) }}", "{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(4) }}", "{% macro m(x) %}{% set n = x %}{{ n }}{% endmacro %}{{ m(1) }}{{ n }}", "{% set v = 1 %}{% macro m() %}{{ v }}{% endmacro %}{% set v = 2 %}{{ m() }}",
    "{% macro m() %}\n  line\n{% endmacro %}\n[{{ m() }}]", "{%- macro m(x) -%}\n  {{ x }}\n{%- endmacro -%}\n{{ m('a')|upper }}", "{% macro outer(x) %}{% macro inner(y) %}{{ x }}{{ y }}{% endmacro %}{{ inner(2) }}{% endmacro %}{{ outer(1) }}", "{% macro m(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call m(1) %}body {{ n }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}", "{% macro m(l) %}{% for x in l %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(i) m(l) %}({{ i }}){% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}b{% endmacro %}{{ a() }}", "{% macro m(x) %}{{ x|default('none') }}{% endmacro %}{{ m() }}{{ m(missing) }}{{ m(1) }}",
    "{% filter upper %}a {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}abc{% endfilter %}", "{% filter trim %}\n  x\n{% endfilter %}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q is defined }}", "{% with n = 1, m = n %}{{ n }}{{ m }}{% endwith %}{{ n }}", "{% generation %}a {{ n }}{% endgeneration %}b", "{% for x in l %}{% generation %}{{ x }}{% set y = 1 %}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{{ '<|' ~ m['role'] ~ '|>' }}\n{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}", "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}{% endfor %}", "{%- if messages[0]['role'] == 'system' %}\n{%- set system_message = messages[0]['content'] %}\n{%- set loop_messages = messages[1:] %}\n{%- else %}\n{%- set loop_messages = messages %}\n{%- endif %}\n{{- system_message }}|{{ loop_messages|length }}",
    "{% if tools is not none and tools %}{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}{% endif %}", "{% if tools is defined and tools is iterable and tools|length > 0 %}{{ tools|map(attribute='function.name')|join(', ') }}{% endif %}", "{% for tool in tools %}{% for k, v in tool.function.parameters.get('properties', {}).items() %}{{ k }}: {{ v.type }}{{ ', ' if not loop.last }}{% endfor %};{% endfor %}", "{%- for tool in tools %}\n  {{- tool | tojson(indent=4) }}\n  {{- '\\n\\n' }}\n{%- endfor %}", "{% for m in messages %}{% if loop.first and m.role != 'system' %}a{% elif not loop.last %}b{% else %}c{% endif %}{% endfor %}",
    # Errors of statements.
    "{% if %}{% endif %}", "{% if n %}", "{% endif %}", "{% if n %}{% endfor %}", "{% if n %}{% else %}{% else %}{% endif %}", "{% for %}{% endfor %}", "{% for x %}{% endfor %}", "{% for x in %}{% endfor %}", "{% for x in l %}", "{% for 1 in l %}{% endfor %}", "{% for x.y in l %}{% endfor %}", "{% for a, b in l %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for x in n %}{% endfor %}", "{% for x in nil %}{% endfor %}", "{% for true in l %}{% endfor %}",
    "{% set %}", "{% set x %}", "{% set x = %}", "{% set 1 = 2 %}", "{% set none = 2 %}", "{% set a, b = 1 %}", "{% set a, b = 1, 2, 3 %}", "{% set n.x = 1 %}", "{% set d.x = 1 %}", "{% set missing.x = 1 %}", "{% set x.y.z = 1 %}", "{% set d['x'] = 1 %}", "{% set x, y %}{% endset %}", "{% break %}", "{% continue %}", "{% macro %}{% endmacro %}", "{% macro m %}{% endmacro %}", "{% macro m(1) %}{% endmacro %}", "{% macro m(a=1, b) %}{% endmacro %}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, a=2) }}", "{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}", "{% call n %}{% endcall %}", "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% nosuch %}", "{% %}", "{% 5 %}", "{% if n }}", "{{ n %}", "{{ n", "{{", "{%", "{% if n %", "{{ }}", "{# open", "{% raw %}x", "{% raw %}{% endraw", "{{ 'a }}", "{{ n }}{{ (n }}", "{{ n) }}", "{% filter %}{% endfilter %}", "{% filter nosuch %}{% endfilter %}", "{% filter upper %}", "{% with a %}{% endwith %}", "{% with a = 1 %}", "{% do l.append(1) %}", "{% for x in l %}{{ x|nosuch }}{% endfor %}", "{% for x in empty %}{{ x|nosuch }}{% endfor %}", "ok\n\n{{ missing.x }}", "{% if n %}{{ n|nosuch }}{% endif %}", "{% endgeneration %}", "{% generation %}",
    "{% set ns = namespace(a=1) %}{% set ns._x = 1 %}", "{% for x in range(100001) %}{% endfor %}", "{{ [1, 2, 3][0", "{{ {'a': 1}} }}", "{% if n %}a{% elif %}b{% endif %}", "{% set x = 1 %}{{ x.y.z }}", "{{ loop.index }}", "{% for x in l %}{% endfor %}{{ loop.index }}", "{% for x in l %}{{ loop.nosuch.x }}{% endfor %}", "{{ m() }}{% macro m() %}{% endmacro %}",
]

# Templates of the kinds that models come with, written for this test.
SIMPLE = ("{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
WITH_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nSignatures inside <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>' + message.role }}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' + tool_call.name + '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""
WITH_DATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|header|>system<|end|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{%- if tools is not none and not messages | length == 0 %}
    {%- set first_user_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|header|>' + message['role'] + '<|end|>\\n\\n' + message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|header|>ipython<|end|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|header|>assistant<|end|>\\n\\n' }}
{%- endif %}
"""
WITH_MACROS = """{%- macro content_of(message) -%}
  {%- if message.content is string -%}{{ message.content }}
  {%- elif message.content is sequence -%}
    {%- for part in message.content -%}
      {%- if part.type == 'text' -%}{{ part.text }}{%- elif part.type == 'image' -%}<image>{%- else -%}{{ raise_exception('Unknown part: ' ~ part.type) }}{%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set loop_messages = messages | rejectattr('role', 'equalto', 'system') | list -%}
{%- set system = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') -%}
{{ bos_token }}{% if system %}[S]{{ system }}[/S]{% endif %}
{%- for message in loop_messages %}
{%- if message.role == 'user' %}[U]{{ content_of(message) | trim }}[/U]
{%- elif message.role == 'assistant' %} {{ content_of(message) | trim }}{{ eos_token }}
{%- else %}{{ raise_exception("Unexpected role " + message.role) }}
{%- endif %}
{%- endfor %}"""
KINDS = [SIMPLE, WITH_TOOLS, WITH_DATE, WITH_MACROS]

CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "北京", "days": 2, "a": [True, None, 1.5]}}}]}
CONVERSATIONS = [
    {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True, "tools": None},
    {"messages": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "  Was ist <b>1 & 1</b>? 😀 "}], "tools": None},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nb"}, {"role": "user", "content": "c"}],
     "add_generation_prompt": True, "enable_thinking": False, "tools": None},
    {"messages": [{"role": "user", "content": "weather?"}, CALL, {"role": "tool", "content": "18C"}, {"role": "tool", "content": "rain"},
                  {"role": "assistant", "content": "Cool.", "reasoning_content": "18"}], "tools": TOOLS},
    {"messages": [{"role": "user", "content": "weather?"}, dict(CALL, content="", tool_calls=CALL["tool_calls"] * 2)], "tools": TOOLS, "add_generation_prompt": True},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "See "}, {"type": "image"}]}], "tools": None},
    {"messages": [{"role": "user", "content": [{"type": "sound"}]}], "tools": None},
    {"messages": [{"role": "nobody", "content": "x"}], "tools": None, "date_string": "1 Jan 2000"},
    {"messages": [], "tools": None},
]


def expressions(text):
    """Split at " | " where it stands for itself: filters are written without blanks."""
    for line in text.strip().splitlines():
        yield from (part.strip() for part in line.split(" | "))


def cases():
    """(template, variables or None for CONTEXT) of every case."""
    for expression in list(expressions(EXPRESSIONS)) + list(expressions(ERRORS)):
        yield "{{ " + expression + " }}", None
    for template in TEMPLATES:
        yield template, None
    for kind in KINDS:
        for conversation in CONVERSATIONS:
            yield kind, dict(conversation, bos_token="<s>", eos_token="</s>")
