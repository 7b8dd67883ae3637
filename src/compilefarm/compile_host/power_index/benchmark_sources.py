"""The sources that power-index compiles, in C and C++, generated so that they need no other file.

They look like preprocessed files, so no header of the machine plays a part. Every machine compiles
the same bytes, whatever its system, word size or C library. The sources contain what compilers
spend their time on. First comes a long list of declarations, few of which are used. Then come
functions full of branches, loops, arithmetic and calls. In C++ there are templates, instantiated
for one record type after another. Real projects would be more realistic. They were rejected because
they are large, go stale, and have configure scripts.

The text must stay the same, byte for byte, because all power indices ever measured are relative to
it. A change needs a new `SET_VERSION` and new reference times.

This module must not know how a compiler is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import Template
from typing import Literal

SET_VERSION = 1
# The CPU seconds that a C and a C++ source take on the reference machine, by the seed of their
# text. That machine has power index 1; docs/power-index.md names it. Sources of other seeds take
# far longer or shorter, so their weight would be too large or too small.
REFERENCE_S = {0: (1.25, 3.3), 2: (1.7, 3.35)}

Language = Literal["C", "C++"]


@dataclass(frozen=True, slots=True)
class Source:
    """A preprocessed source file, and the CPU seconds it takes on the reference machine."""

    language: Language
    text: str
    reference_s: float


def source_set() -> list[Source]:
    """Return the whole set, C and C++ in turn, so that any beginning of it is a fair sample."""
    sources = []
    for seed, (c_s, cxx_s) in REFERENCE_S.items():
        sources.append(Source("C", c_text(seed, declarations=1600, functions=4), c_s))
        sources.append(Source("C++", cxx_text(seed, declarations=1600), cxx_s))
    return sources


def c_text(seed: int, *, declarations: int, functions: int) -> str:
    """Return a C source with this number of declarations, as from headers, and of functions."""
    draw = _Draw(seed)
    lines = ['# 1 "benchmark.c"', '# 1 "declarations.h" 1 3']
    for number in range(declarations):
        lines += _c_declaration(number, draw)
    lines += ['# 2 "benchmark.c" 2', *_C_PRELUDE]
    for number in range(functions):
        lines += _function(number, draw)
    return "\n".join(lines) + "\n"


def cxx_text(seed: int, *, declarations: int) -> str:
    """Return a C++ source with this number of declarations, and templates used with a record."""
    draw = _Draw(seed)
    lines = ['# 1 "benchmark.cc"', '# 1 "declarations.h" 1 3']
    for number in range(declarations):
        lines += _cxx_declaration(number, draw)
    lines += ['# 2 "benchmark.cc" 2', _CXX_LIBRARY, _record(draw)]
    return "\n".join(lines) + "\n"


class _Draw:
    """Choices that are the same in every version of Python.

    Only `Random.random` is guaranteed to give the same numbers in every version; `choice` and
    `randrange` have changed.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def number(self, low: int, high: int) -> int:
        """Return a whole number, both ends included."""
        return low + int(self._random.random() * (high - low + 1))

    def one_of(self, choices: Sequence[str]) -> str:
        """Return one of the choices."""
        return choices[self.number(0, len(choices) - 1)]


_TYPES = ("int", "unsigned", "char", "long", "unsigned char", "double", "const char *", "void *")


def _c_declaration(number: int, draw: _Draw) -> list[str]:
    one, two, three = (draw.one_of(_TYPES) for _ in range(3))
    match number % 5:
        case 0:
            return [
                f"typedef struct type_{number} {{",
                f"    {one} first;",
                f"    {two} second[{draw.number(1, 16)}];",
                f"    struct type_{number} *next;",
                f"}} type_{number};",
            ]
        case 1:
            names = ", ".join(f"NAME_{number}_{name}" for name in range(draw.number(2, 8)))
            return [f"enum names_{number} {{ {names} }};"]
        case 2:
            return [
                f"static inline unsigned inline_{number}(unsigned a, unsigned b)",
                "{",
                f"    return (a * {draw.number(3, 99)}) ^ (b >> {draw.number(1, 15)});",
                "}",
            ]
        case _:
            return [f"extern {one} outside_{number}({two} a, {three} b);"]


def _cxx_declaration(number: int, draw: _Draw) -> list[str]:
    one, two = draw.one_of(_TYPES), draw.one_of(_TYPES)
    match number % 5:
        case 0:
            return [
                f"class type_{number} {{",
                "public:",
                f"    explicit type_{number}({one} first) : first_(first), second_() {{}}",
                f"    virtual ~type_{number}() {{}}",
                f"    {one} first() const {{ return first_; }}",
                f"    virtual void set({one} first) {{ first_ = first; }}",
                "private:",
                f"    {one} first_;",
                f"    {two} second_[{draw.number(1, 16)}];",
                "};",
            ]
        case 1:
            return [
                f"template <class A, class B = A> struct trait_{number} {{",
                "    typedef A type;",
                f"    enum {{ value = sizeof(A) + {draw.number(0, 99)} }};",
                "};",
                f"template <class A> struct trait_{number}<A *, A> : trait_{number}<A> {{}};",
            ]
        case 2:
            return [
                f"template <class A> inline A generic_{number}(const A &a, const A &b)",
                f"{{ return a < b ? b : A(a + {draw.number(1, 99)}); }}",
            ]
        case _:
            return [f"extern {one} outside_{number}({two} a);"]


# The data of the generated functions. All of it is unsigned, so nothing overflows, and compilers
# have nothing to warn about.
_C_PRELUDE = """
struct item { unsigned key, weight, kind, marks[8]; struct item *left, *right; };
extern unsigned outside(struct item *item, unsigned a, unsigned b);
static unsigned table[64];
static inline unsigned mix(unsigned a, unsigned b) { return (a ^ (a >> 15)) * 2654435761u + b; }
static inline struct item *find(struct item *item, unsigned key)
{
    while (item && item->key != key)
        item = key < item->key ? item->left : item->right;
    return item;
}
""".strip().splitlines()
_LEAVES = ("a", "b", "x", "y", "z", "item->key", "item->weight", "item->kind")
_ASSIGNED = ("x", "y", "z", "item->key", "item->weight")


def _function(number: int, draw: _Draw) -> list[str]:
    lines = [
        f"unsigned work_{number}(struct item *item, unsigned a, unsigned b)",
        "{",
        f"    unsigned x = a, y = b, z = {draw.number(1, 999)};",
    ]
    for _ in range(6):
        lines += _statement(number, 1, draw)
    return [*lines, "    return x + y + z;", "}"]


def _statement(number: int, depth: int, draw: _Draw) -> list[str]:
    indent = "    " * depth

    def block(statements: int) -> list[str]:
        return [line for _ in range(statements) for line in _statement(number, depth + 1, draw)]

    kind = draw.number(0, 9) if depth < 4 else draw.number(4, 9)
    if kind == 0:
        head = f"{indent}if ({_expression(2, draw)} > {draw.number(2, 200)}) {{"
        return [head, *block(2), f"{indent}}} else {{", *block(1), f"{indent}}}"]
    if kind == 1:
        index = f"i{depth}"
        head = f"for (unsigned {index} = 0; {index} < (a & 63); {index}++) {{"
        fill = f"{indent}    table[{index}] += {_expression(2, draw)};"
        return [f"{indent}{head}", fill, *block(2), f"{indent}}}"]
    if kind == 2:
        lines = [f"{indent}switch ({_expression(1, draw)} & 7) {{"]
        for label in range(5):
            lines += [f"{indent}case {label}:", *block(1), f"{indent}    break;"]
        return [*lines, f"{indent}default:", *block(1), f"{indent}}}"]
    if kind == 3:
        head = f"while (item->right && item->weight > {draw.number(2, 99)}) {{"
        return [f"{indent}{head}", f"{indent}    item = item->right;", *block(1), f"{indent}}}"]
    target = draw.one_of(_ASSIGNED)
    if kind == 4:
        callee = f"work_{draw.number(0, number - 1)}" if number else "outside"
        arguments = f"item, {_expression(1, draw)}, {_expression(1, draw)}"
        return [f"{indent}{target} += {callee}({arguments});"]
    if kind == 5:
        return [
            f"{indent}if (find(item, {_expression(1, draw)}))",
            f"{indent}    item->marks[{draw.number(0, 7)}] ^= {_expression(1, draw)};",
        ]
    return [f"{indent}{target} {draw.one_of(('=', '+=', '^='))} {_expression(3, draw)};"]


def _expression(depth: int, draw: _Draw) -> str:
    if depth == 0:
        return draw.one_of(_LEAVES)
    left, right = _expression(depth - 1, draw), _expression(depth - 1, draw)
    match draw.number(0, 6):
        case 0:
            return f"({left} >> {draw.number(1, 9)})"
        case 1:
            return f"({left} / ({right} | 1u))"
        case 2:
            return f"mix({left}, {right})"
        case 3:
            return f"table[{left} & 63u]"
        case 4:
            return f"({left} > {draw.number(2, 99)} ? {right} : {draw.number(100, 999)}u)"
        case _:
            return f"({left} {draw.one_of(('+', '-', '*', '^', '&', '|'))} {right})"


# The parts of a library that programs use most: containers, an algorithm, type erasure, a tuple.
_CXX_LIBRARY = """
namespace lib {
typedef decltype(sizeof 0) size;
template <class T> struct plain { typedef T type; };
template <class T> struct plain<T &> { typedef T type; };
template <class T> struct plain<T &&> { typedef T type; };
template <class T> typename plain<T>::type &&move(T &&t)
{ return static_cast<typename plain<T>::type &&>(t); }
template <class T> T &&forward(typename plain<T>::type &t) { return static_cast<T &&>(t); }
template <class T> void swap(T &a, T &b) { T c(move(a)); a = move(b); b = move(c); }
struct less { template <class T> bool operator()(const T &a, const T &b) const { return a < b; } };

template <class T> class vector {
    T *data_; size size_, room_;
public:
    typedef T *iterator; typedef const T *const_iterator;
    vector() : data_(nullptr), size_(0), room_(0) {}
    vector(const vector &other) : data_(nullptr), size_(0), room_(0)
    { reserve(other.size_); for (const T &t : other) push_back(t); }
    vector(vector &&other) : data_(other.data_), size_(other.size_), room_(other.room_)
    { other.data_ = nullptr; other.size_ = other.room_ = 0; }
    vector &operator=(vector other)
    { swap(data_, other.data_); swap(size_, other.size_); swap(room_, other.room_); return *this; }
    ~vector() { delete[] data_; }
    void reserve(size room)
    {
        if (room <= room_) return;
        vector bigger; bigger.data_ = new T[room]; bigger.room_ = room;
        for (T &t : *this) bigger.data_[bigger.size_++] = move(t);
        *this = move(bigger);
    }
    template <class U> void push_back(U &&u)
    { if (size_ == room_) reserve(room_ * 2 + 4); data_[size_++] = forward<U>(u); }
    iterator insert(iterator where, const T &t)
    {
        size at = size(where - data_); push_back(t);
        for (size i = size_ - 1; i > at; i--) swap(data_[i], data_[i - 1]);
        return data_ + at;
    }
    iterator erase(iterator where)
    { for (iterator i = where; i + 1 != end(); ++i) *i = move(i[1]); --size_; return where; }
    T &operator[](size i) { return data_[i]; }
    const T &operator[](size i) const { return data_[i]; }
    iterator begin() { return data_; } iterator end() { return data_ + size_; }
    const_iterator begin() const { return data_; }
    const_iterator end() const { return data_ + size_; }
    size count() const { return size_; } bool empty() const { return size_ == 0; }
};
template <class T> bool operator<(const vector<T> &a, const vector<T> &b)
{
    for (size i = 0; i < a.count() && i < b.count(); i++) {
        if (a[i] < b[i]) return true;
        if (b[i] < a[i]) return false;
    }
    return a.count() < b.count();
}

class string {
    vector<char> text_;
public:
    string() {}
    string(const char *text) { while (*text) text_.push_back(*text++); }
    string &operator+=(const string &other)
    { for (char c : other.text_) text_.push_back(c); return *this; }
    friend string operator+(string a, const string &b) { a += b; return a; }
    friend bool operator<(const string &a, const string &b) { return a.text_ < b.text_; }
    unsigned hash() const
    { unsigned h = 5381; for (char c : text_) h = h * 33 + (unsigned char)c; return h; }
};

template <class I, class Less> void sort(I begin, I end, Less less)
{
    while (end - begin > 12) {
        I low = begin, high = end - 1;
        auto pivot = begin[(end - begin) / 2];
        while (!(high < low)) {
            while (less(*low, pivot)) ++low;
            while (less(pivot, *high)) --high;
            if (!(high < low)) { swap(*low, *high); ++low; --high; }
        }
        sort(begin, high + 1, less);
        begin = low;
    }
    for (I i = begin; i != end; ++i)
        for (I j = i; j != begin && less(*j, j[-1]); --j) swap(*j, j[-1]);
}

template <class K, class V, class Less = less> class map {
    struct node {
        K key; V value; unsigned level; node *left, *right;
        node(const K &k) : key(k), value(), level(1), left(nullptr), right(nullptr) {}
        node(const node &n)
            : key(n.key), value(n.value), level(n.level),
              left(copy(n.left)), right(copy(n.right)) {}
        ~node() { delete left; delete right; }
        static node *copy(const node *n) { return n ? new node(*n) : nullptr; }
    };
    node *root_; size size_; Less less_;
    static void skew(node *&n)
    {
        if (n->left && n->left->level == n->level) {
            node *l = n->left; n->left = l->right; l->right = n; n = l;
        }
    }
    static void split(node *&n)
    {
        if (n->right && n->right->right && n->right->right->level == n->level) {
            node *r = n->right; n->right = r->left; r->left = n; ++r->level; n = r;
        }
    }
    V &at(node *&n, const K &key)
    {
        if (!n) { n = new node(key); ++size_; return n->value; }
        if (!less_(key, n->key) && !less_(n->key, key)) return n->value;
        V &value = at(less_(key, n->key) ? n->left : n->right, key);
        skew(n); split(n);
        return value;
    }
    template <class F> static void visit(const node *n, F &f)
    { if (n) { visit(n->left, f); f(n->key, n->value); visit(n->right, f); } }
public:
    map() : root_(nullptr), size_(0), less_() {}
    map(const map &other)
        : root_(node::copy(other.root_)), size_(other.size_), less_(other.less_) {}
    map &operator=(map other) { swap(root_, other.root_); swap(size_, other.size_); return *this; }
    ~map() { delete root_; }
    V &operator[](const K &key) { return at(root_, key); }
    const V *find(const K &key) const
    {
        const node *n = root_;
        while (n && (less_(key, n->key) || less_(n->key, key)))
            n = less_(key, n->key) ? n->left : n->right;
        return n ? &n->value : nullptr;
    }
    template <class F> void each(F f) const { visit(root_, f); }
    size count() const { return size_; }
};

template <class S> class function;
template <class R, class... A> class function<R(A...)> {
    struct base { virtual ~base() {} virtual R call(A...) = 0; virtual base *copy() const = 0; };
    template <class F> struct held : base {
        F f; held(const F &g) : f(g) {}
        R call(A... a) override { return f(forward<A>(a)...); }
        base *copy() const override { return new held(f); }
    };
    base *held_;
public:
    function() : held_(nullptr) {}
    template <class F> function(const F &f) : held_(new held<F>(f)) {}
    function(const function &other) : held_(other.held_ ? other.held_->copy() : nullptr) {}
    function &operator=(function other) { swap(held_, other.held_); return *this; }
    ~function() { delete held_; }
    R operator()(A... a) const { return held_->call(forward<A>(a)...); }
};

template <class... T> struct tuple {};
template <class H, class... T> struct tuple<H, T...> { H head; tuple<T...> rest; };
inline bool operator<(const tuple<> &, const tuple<> &) { return false; }
template <class H, class... T> bool operator<(const tuple<H, T...> &a, const tuple<H, T...> &b)
{ return a.head < b.head || (!(b.head < a.head) && a.rest < b.rest); }
inline tuple<> pack() { return tuple<>(); }
template <class H, class... T> tuple<H, T...> pack(H head, T... rest)
{ return tuple<H, T...>{head, pack(rest...)}; }
template <class F> void each(const tuple<> &, F &) {}
template <class F, class H, class... T> void each(const tuple<H, T...> &t, F &f)
{ f(t.head); each(t.rest, f); }
}
""".strip()


# A record type, and a function that uses it with every part of the library.
_RECORD = Template("""
struct record {
    $fields
    unsigned key;
    record() : $zeros, key() {}
};
inline bool operator<(const record &a, const record &b)
{
    auto pack = [](const record &r) { return lib::pack($values, r.key); };
    return pack(a) < pack(b);
}
unsigned use_record(lib::vector<record> records, unsigned limit)
{
    lib::map<unsigned, lib::vector<record>> groups;
    lib::map<unsigned, unsigned> counts;
    lib::vector<lib::function<bool(const record &)>> tests;
    tests.push_back([limit](const record &r) { return limit < unsigned(sizeof r); });
    tests.push_back([&](const record &r) { return counts.find(r.key) != nullptr; });
    lib::sort(records.begin(), records.end(), lib::less());
    for (const record &r : records) {
        bool wanted = true;
        for (const auto &test : tests) wanted = wanted && test(r);
        if (wanted) { groups[r.key].push_back(r); counts[r.key] += limit; }
    }
    unsigned sum = $number;
    groups.each([&](unsigned key, const lib::vector<record> &group) {
        lib::vector<record> copy(group);
        if (!copy.empty()) copy.erase(copy.insert(copy.begin(), group[0]));
        sum += unsigned(copy.count()) + (groups.find(key) ? 1u : 0u);
    });
    sum ^= (lib::string("record") + lib::string("+")).hash();
    return sum + unsigned(counts.count());
}
""")
_FIELD_TYPES = ("unsigned", "double", "lib::vector<unsigned>", "char")


def _record(draw: _Draw) -> str:
    fields = [f"field_{index}" for index in range(draw.number(3, 4))]
    return _RECORD.substitute(
        fields="\n    ".join(f"{draw.one_of(_FIELD_TYPES)} {field};" for field in fields),
        zeros=", ".join(f"{field}()" for field in fields),
        values=", ".join(f"r.{field}" for field in fields),
        number=draw.number(1, 999),
    )
