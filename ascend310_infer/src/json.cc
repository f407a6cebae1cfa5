#include "inc/json.h"

#include <cmath>
#include <cstdlib>

#include "inc/options.h"

namespace {

constexpr int kMaxDepth = 32;
constexpr size_t kMaxText = size_t{1} << 20;
constexpr size_t kMaxNumber = 40;

class Parser {
 public:
  Parser(const std::string &text, const std::string &name) : text_(text), name_(name) {}

  Json Whole() {
    if (text_.size() > kMaxText) {
      Fail("is longer than metadata are");
    }
    Json value = Value(0);
    Space();
    if (place_ != text_.size()) {
      Fail("goes on after its end");
    }
    return value;
  }

 private:
  [[noreturn]] void Fail(const std::string &problem) const {
    throw Error(name_ + ": not the metadata of export.py: " + problem + " (byte " + std::to_string(place_) + ")");
  }

  void Space() {
    while (place_ < text_.size() && (text_[place_] == ' ' || text_[place_] == '\n' || text_[place_] == '\t' ||
                                     text_[place_] == '\r')) {
      ++place_;
    }
  }

  char Peek() const { return place_ < text_.size() ? text_[place_] : '\0'; }

  bool Take(char wanted) {
    Space();
    const bool there = place_ < text_.size() && text_[place_] == wanted;
    place_ += there ? 1 : 0;
    return there;
  }

  bool Word(const std::string &word) {
    const bool there = text_.compare(place_, word.size(), word) == 0;
    place_ += there ? word.size() : 0;
    return there;
  }

  Json Value(int depth) {
    if (depth > kMaxDepth) {
      Fail("lists in lists without end");
    }
    Space();
    Json value;
    if (Peek() == '{' || Peek() == '[') {
      Members(&value, depth);
    } else if (Peek() == '"') {
      value.kind = Json::Kind::kString;
      value.text = String();
    } else if (Word("null")) {
      value.kind = Json::Kind::kNull;
    } else if (Word("true") || Word("false")) {
      value.kind = Json::Kind::kBool;
      value.number = text_[place_ - 2] == 'u' ? 1 : 0;
    } else {
      value.kind = Json::Kind::kNumber;
      value.number = Number();
    }
    return value;
  }

  void Members(Json *value, int depth) {
    const bool is_object = Peek() == '{';
    const char end = is_object ? '}' : ']';
    value->kind = is_object ? Json::Kind::kObject : Json::Kind::kList;
    ++place_;
    if (Take(end)) {
      return;
    }
    do {
      std::string name;
      if (is_object) {
        Space();
        name = String();
        if (!Take(':')) {
          Fail("expected a colon");
        }
      }
      value->items.emplace_back(std::move(name), Value(depth + 1));
    } while (Take(','));
    if (!Take(end)) {
      Fail("expected a comma or an end");
    }
  }

  // Escapes stay as they are, but for quotes and backslashes: no name that is asked for has others.
  std::string String() {
    if (Peek() != '"') {
      Fail("expected a text in quotes");
    }
    std::string found;
    for (++place_; place_ < text_.size() && text_[place_] != '"'; ++place_) {
      if (text_[place_] == '\\' && ++place_ == text_.size()) {
        break;
      }
      found += text_[place_];
    }
    if (place_ >= text_.size()) {
      Fail("a text without end");
    }
    ++place_;
    return found;
  }

  double Number() {
    const size_t start = place_;
    while (place_ < text_.size() && std::string("+-.eE0123456789").find(text_[place_]) != std::string::npos) {
      ++place_;
    }
    const std::string word = text_.substr(start, place_ - start);
    char *end = nullptr;
    const double number = word.size() > kMaxNumber ? NAN : std::strtod(word.c_str(), &end);
    if (word.empty() || end != word.c_str() + word.size() || !std::isfinite(number)) {
      Fail("expected a value");
    }
    return number;
  }

  const std::string &text_;
  const std::string &name_;
  size_t place_ = 0;
};

}  // namespace

const Json *Json::Find(const std::string &name) const {
  if (kind == Kind::kObject) {
    for (const auto &item : items) {
      if (item.first == name) {
        return &item.second;
      }
    }
  }
  return nullptr;
}

Json ParseJson(const std::string &text, const std::string &name) { return Parser(text, name).Whole(); }
