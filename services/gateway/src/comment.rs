//! The comments of the contracts: what the generated documents say about each thing.

use std::collections::BTreeMap;

use phasegate_proto_json::pool;
use prost_reflect::{
    EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor, MessageDescriptor,
    MethodDescriptor, ServiceDescriptor,
};

/// Comments, by file and by the path of what they stand at.
#[derive(Debug)]
pub(crate) struct Comments(BTreeMap<String, BTreeMap<Vec<i32>, String>>);

impl Comments {
    /// Reads them from the descriptors.
    pub(crate) fn read() -> Self {
        Self(pool().files().map(|file| (file.name().to_owned(), of_file(&file))).collect())
    }

    pub(crate) fn of_service(&self, service: &ServiceDescriptor) -> &str {
        self.at(&service.parent_file(), service.path())
    }

    pub(crate) fn of_method(&self, method: &MethodDescriptor) -> &str {
        self.at(&method.parent_file(), method.path())
    }

    pub(crate) fn of_message(&self, message: &MessageDescriptor) -> &str {
        self.at(&message.parent_file(), message.path())
    }

    pub(crate) fn of_field(&self, field: &FieldDescriptor) -> &str {
        self.at(&field.parent_file(), field.path())
    }

    pub(crate) fn of_enum(&self, descriptor: &EnumDescriptor) -> &str {
        self.at(&descriptor.parent_file(), descriptor.path())
    }

    pub(crate) fn of_enum_value(&self, value: &EnumValueDescriptor) -> &str {
        self.at(&value.parent_file(), value.path())
    }

    fn at(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(file.name()).and_then(|comments| comments.get(path)).map_or("", String::as_str)
    }
}

fn of_file(file: &FileDescriptor) -> BTreeMap<Vec<i32>, String> {
    let locations =
        file.file_descriptor_proto().source_code_info.as_ref().map(|info| info.location.as_slice());
    let commented =
        locations.unwrap_or_default().iter().filter(|location| !location.leading_comments().is_empty());
    commented.map(|location| (location.path.clone(), paragraphs(location.leading_comments()))).collect()
}

/// Joins the lines of each paragraph, which are broken where the source is.
fn paragraphs(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        if line.is_empty() {
            if !text.is_empty() && !text.ends_with("\n\n") {
                text.push_str("\n\n");
            }
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim_end().to_owned()
}
