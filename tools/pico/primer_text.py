"""Small everyday functions about strings and files, written for pico (see primer_numbers)."""

from __future__ import annotations

import json
import re


def hello():
    """Print hello world.

    Also: say hello
    """
    print("Hello, world!")


def greet(name):
    """Greet a person by name.

    Also: return a greeting for a name
    """
    return f"Hello, {name}!"


def reverse_string(text):
    """Reverse a string.

    Also: return the string reversed | return a string backwards | reverse the given text
    """
    return text[::-1]


def is_palindrome(text):
    """Check whether a string is a palindrome.

    Also: return True if a word is a palindrome | test if a string reads the same backwards
    """
    cleaned = [c.lower() for c in text if c.isalnum()]
    return cleaned == cleaned[::-1]


def count_vowels(text):
    """Count the vowels in a string.

    Also: return the number of vowels in a text
    """
    return sum(1 for c in text.lower() if c in "aeiou")


def count_words(text):
    """Count the words in a string.

    Also: return the number of words in a text
    """
    return len(text.split())


def word_frequency(text):
    """Count how often each word occurs in a text.

    Also: return the frequency of each word | count word frequencies
    """
    counts = {}
    for word in text.lower().split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def char_frequency(text):
    """Count how often each character occurs in a string.

    Also: count the characters in a string | return a dictionary of letter counts
    """
    counts = {}
    for char in text:
        counts[char] = counts.get(char, 0) + 1
    return counts


def longest_word(text):
    """Return the longest word in a sentence.

    Also: find the longest word in a string
    """
    return max(text.split(), key=len, default="")


def capitalize_words(text):
    """Capitalize each word in a string.

    Also: make the first letter of every word upper case
    """
    return " ".join(word.capitalize() for word in text.split())


def to_upper(text):
    """Convert a string to upper case.

    Also: return a string in uppercase
    """
    return text.upper()


def to_lower(text):
    """Convert a string to lower case.

    Also: return a string in lowercase
    """
    return text.lower()


def remove_spaces(text):
    """Remove all spaces from a string.

    Also: strip whitespace from a string
    """
    return "".join(text.split())


def remove_punctuation(text):
    """Remove punctuation from a string."""
    return "".join(c for c in text if c.isalnum() or c.isspace())


def remove_vowels(text):
    """Remove the vowels from a string."""
    return "".join(c for c in text if c.lower() not in "aeiou")


def reverse_words(text):
    """Reverse the words in a sentence.

    Also: reverse the order of the words in a string
    """
    return " ".join(reversed(text.split()))


def are_anagrams(a, b):
    """Check whether two strings are anagrams.

    Also: return True if two words are anagrams of each other
    """
    return sorted(a.lower()) == sorted(b.lower())


def caesar_cipher(text, shift):
    """Encrypt a string with a Caesar cipher.

    Also: shift the letters of a text | encode a text with the Caesar cipher
    """
    result = []
    for char in text:
        if char.isalpha():
            base = ord("A") if char.isupper() else ord("a")
            char = chr((ord(char) - base + shift) % 26 + base)
        result.append(char)
    return "".join(result)


def snake_to_camel(name):
    """Convert snake case to camel case.

    Also: convert a snake_case name to camelCase
    """
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def camel_to_snake(name):
    """Convert camel case to snake case.

    Also: convert a camelCase name to snake_case
    """
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def slugify(text):
    """Turn a title into a slug.

    Also: make a URL slug from a string
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def truncate(text, length):
    """Truncate a string to a maximum length.

    Also: shorten a text to a length
    """
    if len(text) <= length:
        return text
    return text[: length - 3] + "..."


def is_valid_email(text):
    """Check whether a string is a valid email address.

    Also: validate an email address
    """
    return re.fullmatch(r"[\w.+-]+@[\w-]+\.[\w.-]+", text) is not None


def extract_numbers(text):
    """Extract all numbers from a string.

    Also: find the numbers in a text
    """
    return [int(number) for number in re.findall(r"-?\d+", text)]


def join_words(words, separator=" "):
    """Join a list of words with a separator.

    Also: join a list of strings
    """
    return separator.join(words)


def split_lines(text):
    """Split a text into lines without blank ones."""
    return [line for line in text.splitlines() if line.strip()]


def first_unique_char(text):
    """Return the first character that does not repeat.

    Also: find the first unique character in a string
    """
    for char in text:
        if text.count(char) == 1:
            return char
    return None


def longest_common_prefix(words):
    """Find the longest common prefix of a list of strings."""
    if not words:
        return ""
    prefix = words[0]
    for word in words[1:]:
        while not word.startswith(prefix):
            prefix = prefix[:-1]
    return prefix


def levenshtein(a, b):
    """Compute the edit distance between two strings.

    Also: compute the Levenshtein distance between two strings
    """
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            cost = 0 if x == y else 1
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + cost))
        previous = current
    return previous[-1]


def read_file(path):
    """Read a text file.

    Also: return the contents of a file | read a file into a string
    """
    with open(path, encoding="utf-8") as file:
        return file.read()


def read_lines(path):
    """Read the lines of a file.

    Also: return a list of the lines in a file | read a file line by line
    """
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n") for line in file]


def write_file(path, text):
    """Write a string to a file.

    Also: save text to a file
    """
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def count_lines(path):
    """Count the lines in a file.

    Also: return the number of lines in a file
    """
    with open(path, encoding="utf-8") as file:
        return sum(1 for _ in file)


def load_json(path):
    """Load a JSON file.

    Also: read a JSON file | parse a JSON file
    """
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def save_json(path, data):
    """Save data to a JSON file.

    Also: write a dictionary to a JSON file
    """
    with open(path, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2)
