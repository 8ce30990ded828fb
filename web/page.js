window.JinaBox.init(`${location.origin}/search`);
